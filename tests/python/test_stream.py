# SPDX-License-Identifier: Apache-2.0
"""The stream itself: nothing but messages gets into it, and nothing that comes through it costs more
than it may."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest

import msgpack

from sched_port_client import tensor
from support import PortCase, children, descriptors, find_test_plugin
from test_basics import checksum, checksum_of

F_GETPIPE_SZ = 1032  # fcntl has it from Python 3.10 on


def peak_memory(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        peak = [line for line in status if line.startswith("VmHWM")][0]
    return int(peak.split()[1]) << 10


def encoded(*messages):
    return b"".join(msgpack.packb(message) for message in messages)


class Stream(PortCase):
    def test_its_pipes_hold_a_mebibyte(self):
        for fd in (self.client.in_, self.client.out):
            self.assertEqual(fcntl.fcntl(fd, F_GETPIPE_SZ), 1 << 20)

    def printing(self, **how):
        plugin = find_test_plugin("odd")
        if plugin is None:
            self.skipTest("the plugins of the tests in C are not built")
        with tempfile.TemporaryFile() as lines:
            client = self.start(stderr=lines, **how)
            client.load("odd", engine="odd", library=plugin)
            for _ in range(3):
                client.infer("odd", {"data": [1]}, parameters={"do": "print"})
                self.assertEqual(client.call("ping", 1), 1)
            lines.seek(0)
            self.assertIn(b"printed by an engine\n", lines.read())
        return client

    def test_what_a_library_prints_is_not_in_it(self):
        self.printing()

    def test_what_a_library_prints_is_not_in_it_where_it_is_standard_output(self):
        client = self.printing(stdio=True)
        port = descriptors(client.process.pid)
        self.assertEqual(port[0], "/dev/null")
        self.assertEqual(port[1], port[2])
        ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in (client.in_, client.out)}
        for pid in children(client.process.pid):
            self.assertFalse(ours & set(descriptors(pid).values()))
        self.assertEqual(client.close(), 0)

    def test_answers_are_gathered(self):
        self.client.send(*[self.client.request("ping", i) for i in range(1000)])
        while len(self.client.responses) < 1000:
            self.client.receive()
        port = self.client.call("stats")["port"]
        self.assertEqual(port["messages_in"], 1001)
        self.assertLess(port["frames_out"], 10)

    def test_a_worker_that_is_none(self):
        for program in ("/nowhere", os.devnull):
            done = subprocess.run(
                [self.program, "--fds=0,1", f"--worker={program}"], capture_output=True,
                stdin=subprocess.DEVNULL, timeout=20, check=False,
            )
            self.assertEqual(done.returncode, 70)
            self.assertIn(program.encode(), done.stderr)
            self.assertEqual(done.stdout, b"")

    def test_a_worker_that_does_not_start(self):
        client = self.start(f"--worker={shutil.which('false')}")
        error = self.assert_error("no_device", client.load, "m", engine="synthetic")
        self.assertIn("exited with code 1", str(error))
        device = client.call("devices")[0]
        self.assertEqual((device["usable"], device["state"]), (False, "down"))
        self.assertIn("given up", device["reason"])


class Floods(PortCase):
    # What it has anyway, and what one frame of each kind may cost on top of its own bytes.
    LIMIT = 250 << 20

    def tearDown(self):
        self.assertEqual(self.client.call("ping", "as before"), "as before")
        self.assertLess(peak_memory(self.client.process.pid), self.LIMIT)

    def bad_frame(self, payload, says):
        number = self.client.frames_sent
        self.client.send_frame(payload)
        answer = self.client.wait_notification("bad_frame")[1]
        self.assertEqual(answer[0], number)
        self.assertIn(says, answer[1])

    def test_the_largest_frames_there_are(self):
        limit = self.client.hello["max_frame_bytes"]
        head = b"\x94\x00\x01\xa4ping\x91"
        size = limit - len(head) - 5
        self.client.send_frame(head + b"\xc6" + size.to_bytes(4, "big") + bytes(size))
        self.assertEqual(self.client.wait(1), bytes(size))
        self.bad_frame(bytes(limit + 1), str(limit + 1))
        self.bad_frame(b"\x91" * limit, "not a message")
        self.bad_frame(head + b"\x91" * (limit - len(head)), "nested deeper")
        many = limit - len(head) - 5
        self.bad_frame(head + b"\xdd" + many.to_bytes(4, "big") + b"\xc0" * many, "values")

    def test_as_deep_and_as_many_as_may_be(self):
        hello = self.client.hello
        # The message, its params, and the rest.
        deep = b"\x91" * (hello["max_nesting"] - 2) + b"\xc0"
        self.client.send_frame(b"\x94\x00\x01\xa4ping\x91" + deep)
        self.client.wait(1)
        self.bad_frame(b"\x94\x00\x01\xa4ping\x91\x91" + deep, "nested deeper")
        # Array, type, id, method, params, list.
        many = hello["max_values"] - 6
        lists = b"\x94\x00\x01\xa4ping\x91\xdd"
        self.client.send_frame(lists + many.to_bytes(4, "big") + b"\x01" * many)
        self.client.timeout = 60
        self.assertEqual(len(self.client.wait(1)), many)
        many += 1
        self.bad_frame(lists + many.to_bytes(4, "big") + b"\x01" * many, "values")

    def test_small_requests_with_large_answers(self):
        self.client.load("synthetic", engine="synthetic")
        n = 100_000
        self.client.send_frame(b"".join(
            b"\x94\x00\xce" + i.to_bytes(4, "big") + b"\xa6models\x90" for i in range(n)
        ))
        seen = set()
        while len(seen) < n:
            self.client.receive()
            for id_, (error, _) in self.client.responses.items():
                self.assertIsNone(error)
                seen.add(id_)
            self.client.responses.clear()

    def test_requests_that_are_all_wrong(self):
        n = 100_000
        self.client.send_frame(b"".join(
            b"\x94\x00\xce" + i.to_bytes(4, "big") + b"\xa0\x90" for i in range(n)
        ))
        while len(self.client.responses) < n:
            self.client.receive()
        self.assertEqual({e["code"] for e, _ in self.client.responses.values()}, {"not_supported"})
        self.client.responses.clear()

    def test_hellos(self):
        hello = [2, "hello", [self.client.hello]]
        for _ in range(20):
            self.client.send(*[hello] * 1000)
        self.assert_error("not_supported", self.client.call, "hello", self.client.hello)
        self.assertEqual({n[0] for n in self.client.notifications} - {"event"}, set())

    def test_an_id_may_be_used_again_once_it_is_answered(self):
        self.client.load("synthetic", engine="synthetic")
        for i in range(1000):
            self.client.send([0, 7, "infer", [{"model": "synthetic", "inputs": {"data": [i % 256]}}]])
            self.assertEqual(checksum_of(self.client.wait(7)), checksum(bytes([i % 256])))


class Busy(PortCase):
    def test_sigterm_is_seen_while_requests_keep_coming(self):
        frame = encoded(*[[0, i, "ping", [0]] for i in range(1000)])
        frame = len(frame).to_bytes(4, "big") + frame
        client = self.client

        def write():
            try:
                while True:
                    client.send_bytes(frame)
            except OSError:
                pass

        read = threading.Event()

        def drain():
            while os.read(client.in_, 1 << 16):
                read.set()

        threads = [threading.Thread(target=target) for target in (write, drain)]
        for thread in threads:
            thread.start()
        read.wait(10)
        client.process.send_signal(signal.SIGTERM)
        self.assertEqual(client.process.wait(5), 0)
        for thread in threads:
            thread.join()


class SmallSharedMemory(PortCase):
    """As in a container, where /dev/shm has 64 MiB or less."""

    def test_nothing_is_taken_of_it(self):
        in_namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
        mount = "mount -t tmpfs -o size=4k tmpfs /dev/shm"
        tried = shutil.which("unshare") and subprocess.run(
            [*in_namespace, "sh", "-c", mount], capture_output=True, check=False
        )
        if not tried or tried.returncode != 0:
            self.skipTest("no mount namespace can be made here")
        client = self.start(
            command=[*in_namespace, "sh", "-c", f'{mount} && exec "$0" "$@"', self.program]
        )
        client.load("synthetic", engine="synthetic")
        data = os.urandom(8 << 20)
        lease = client.lease(len(data))
        with open(lease["path"], "r+b", buffering=0) as file:
            file.write(data)
        leased = {"datatype": "UINT8", "shape": [len(data)], "lease": lease["lease"],
                  "size": len(data)}
        for form in (leased, tensor("UINT8", [len(data)], data)):
            result = client.infer("synthetic", {"data": form}, parameters={"echo": True})
            self.assertEqual(checksum_of(result), checksum(data))
            self.assertEqual(result["outputs"]["data"]["data"], data)


if __name__ == "__main__":
    unittest.main()
