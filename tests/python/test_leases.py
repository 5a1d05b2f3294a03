# SPDX-License-Identifier: Apache-2.0
"""Leases: what a client may do to one, and what becomes of its infer."""

import mmap
import os
import unittest

from support import PortCase, wait_until
from test_basics import checksum, checksum_of


def leased(lease, size, offset=None):
    tensor = {"datatype": "UINT8", "shape": [size], "lease": lease["lease"], "size": size}
    if offset is not None:
        tensor["offset"] = offset
    return tensor


class Leases(PortCase):
    def setUp(self):
        super().setUp()
        self.client.load("synthetic", engine="synthetic")

    def infer(self, tensor):
        return self.client.infer("synthetic", {"data": tensor})

    def opened(self, lease):
        fd = os.open(lease["path"], os.O_RDWR | os.O_CLOEXEC)
        self.addCleanup(os.close, fd)
        return fd

    def test_a_large_tensor_goes_round_the_pipe(self):
        data = os.urandom(8 << 20)
        lease = self.client.lease(len(data))
        self.assertEqual(lease["size"], len(data))
        self.assertGreater(lease["expires_ms"], 0)
        before = self.client.call("stats")["port"]["bytes_in"]
        with open(lease["path"], "r+b", buffering=0) as file:
            file.write(data)
        self.assertEqual(checksum_of(self.infer(leased(lease, len(data)))), checksum(data))
        self.assertLess(self.client.call("stats")["port"]["bytes_in"] - before, 1000)
        wait_until(
            lambda: self.client.call("stats")["port"]["lease_bytes"] == 0, "its memory is free"
        )

    def test_pieces_of_one_at_any_offset(self):
        data = os.urandom(100_000)
        for offset in (0, 64, 1, 99_000):
            lease = self.client.lease(len(data))
            os.pwrite(self.opened(lease), data, 0)
            size = len(data) - offset
            result = self.infer(leased(lease, size, offset))
            self.assertEqual(checksum_of(result), checksum(data[offset:]), offset)

    def test_through_the_pipe(self):
        data = os.urandom(1_000_000)
        lease = self.client.lease(len(data))
        step = 256 << 10
        for at in range(0, len(data), step):
            self.client.notify("lease_write", lease["lease"], at, data[at : at + step])
        self.assertEqual(checksum_of(self.infer(leased(lease, len(data)))), checksum(data))

    def test_what_is_wrong_with_a_piece_is_said_by_the_infer(self):
        lease = self.client.lease(1000)
        self.client.notify("lease_write", lease["lease"], 990, b"x" * 11)
        error = self.assert_error("invalid_argument", self.infer, leased(lease, 1000))
        self.assertIn("11 bytes written at 990", str(error))

    def test_it_cannot_be_shrunk_or_grown(self):
        lease = self.client.lease(8192)
        fd = self.opened(lease)
        for size in (0, 4096, 16384):
            with self.assertRaises(PermissionError):
                os.ftruncate(fd, size)
        self.infer(leased(lease, 8192))

    def test_unlinking_it_is_nobodys_business(self):
        lease = self.client.lease(8192)
        with self.assertRaises(OSError):
            os.unlink(lease["path"])
        self.infer(leased(lease, 8192))

    def test_it_cannot_be_written_after_its_commit(self):
        self.client.load("slow", engine="synthetic", parameters={"a_us": 100_000})
        data = os.urandom(8192)
        lease = self.client.lease(8192)
        fd = self.opened(lease)
        os.pwrite(fd, data, 0)
        id_ = self.client.submit_infer("slow", {"data": leased(lease, 8192)})
        self.assertEqual(self.client.call("ping", 1), 1)
        with self.assertRaises(PermissionError):
            os.pwrite(fd, b"x", 0)
        self.assertEqual(checksum_of(self.client.wait(id_)), checksum(data))

    def test_mapped_for_writing_it_is_refused(self):
        lease = self.client.lease(8192)
        with mmap.mmap(self.opened(lease), 8192) as memory:
            error = self.assert_error("invalid_argument", self.infer, leased(lease, 8192))
            self.assertIn("mapped for writing", str(error))
            memory[0] = 1
        self.assert_error("not_found", self.infer, leased(lease, 8192))

    def test_it_is_used_once(self):
        lease = self.client.lease(100)
        self.infer(leased(lease, 100))
        self.assert_error("not_found", self.infer, leased(lease, 100))

    def test_given_back_it_is_gone(self):
        lease = self.client.lease(100)
        self.client.notify("lease_release", lease["lease"])
        self.assert_error("not_found", self.infer, leased(lease, 100))
        self.client.notify("lease_release", lease["lease"])
        self.assertEqual(self.client.call("stats")["port"]["leases"], 0)

    def test_wrong_places(self):
        for size, offset in ((101, 0), (1, 100), (2, 99), (1, 2**63), (100, 2**64 - 1)):
            lease = self.client.lease(100)
            error = self.assert_error("invalid_argument", self.infer, leased(lease, size, offset))
            self.assertIn("the lease has 100", str(error))
        for id_ in (0, 1, 2**32 - 1):
            self.assert_error("not_found", self.infer, leased({"lease": id_}, 100))
        self.assert_error("invalid_argument", self.infer, leased({"lease": "x"}, 100))
        lease = self.client.lease(100)
        both = {**leased(lease, 100), "data": b"x" * 100}
        self.assert_error("invalid_argument", self.infer, both)

    def test_a_stale_path_is_not_the_next_lease(self):
        first = self.client.lease(100)
        self.infer(leased(first, 100))
        second = self.client.lease(100)
        self.assertNotEqual(first["path"], second["path"])
        with self.assertRaises(FileNotFoundError):
            os.open(first["path"], os.O_RDWR)

    def test_a_lying_length_inside(self):
        # BYTES whose element claims more than there is; the model takes none, but before that is
        # looked at, nothing may read beyond the lease.
        lease = self.client.lease(8)
        os.pwrite(self.opened(lease), b"\xff\xff\xff\xffabcd", 0)
        tensor = {**leased(lease, 8), "datatype": "BYTES", "shape": [1]}
        self.assert_error("invalid_argument", self.infer, tensor)


class LeaseLimits(PortCase):
    options = ("--lease-max-bytes=1M", "--lease-expiry-ms=50")

    def test_number_of_bytes(self):
        self.assertEqual(self.client.hello["lease_bytes"]["max"], 1 << 20)
        self.assert_error("too_large", self.client.lease, (1 << 20) + 1)
        self.assert_error("invalid_argument", self.client.lease, 0)
        self.assert_error("invalid_argument", self.client.call, "lease", {})
        self.client.lease(1 << 20)
        error = self.assert_error("overloaded", self.client.lease, 1)
        self.assertGreaterEqual(error.retry_after_ms, 1)

    def test_expiry(self):
        self.client.load("synthetic", engine="synthetic")
        lease = self.client.lease(1 << 20)
        wait_until(lambda: self.client.call("stats")["port"]["leases"] == 0, "it expires")
        error = self.assert_error(
            "not_found", self.client.infer, "synthetic", {"data": leased(lease, 100)}
        )
        self.assertIn("expired", str(error))
        with self.assertRaises(FileNotFoundError):
            os.open(lease["path"], os.O_RDWR)


class NoLeases(PortCase):
    options = ("--lease-max-bytes=0",)

    def test_none_are_given(self):
        self.assertNotIn("lease_bytes", self.client.hello)
        self.assert_error("not_supported", self.client.lease, 100)


if __name__ == "__main__":
    unittest.main()
