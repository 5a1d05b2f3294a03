# SPDX-License-Identifier: Apache-2.0
"""How sched-port ends, and what it leaves: nothing, within a second."""

import fcntl
import os
import select
import signal
import struct
import termios
import threading
import time
import unittest

from sched_port_client import tensor
from support import PortCase, children, is_alive, wait_until

# They are gone within a second, on a machine that runs them; the batch that is under way would take
# five.
SOON = 4


class Ends(PortCase):
    def setUp(self):
        super().setUp()
        self.client.load("slow", engine="synthetic", parameters={"a_us": 5_000_000})
        # Those of the prepare workers too, which no device lists.
        self.workers = children(self.client.process.pid)
        self.assertTrue(self.workers)

    def run_a_batch(self):
        self.client.submit_infer("slow", {"data": [1]})
        wait_until(lambda: self.client.call("stats")["requests"]["running"] == 1, "it runs")

    def assert_all_gone(self, began):
        wait_until(lambda: not any(map(is_alive, self.workers)), "workers are gone", SOON)
        self.assertLess(time.monotonic() - began, SOON)

    def test_at_the_end_of_the_input(self):
        began = time.monotonic()
        self.assertEqual(self.client.close(), 0)
        self.assert_all_gone(began)

    def test_at_the_end_of_the_input_in_the_middle_of_a_batch(self):
        self.run_a_batch()
        began = time.monotonic()
        self.assertEqual(self.client.close(), 0)
        self.assert_all_gone(began)

    def test_when_only_the_input_ends(self):
        self.run_a_batch()
        began = time.monotonic()
        os.close(self.client.out)
        self.client.out = -1
        self.assertEqual(self.client.process.wait(SOON), 0)
        self.assert_all_gone(began)

    def test_when_nobody_reads_any_more(self):
        os.close(self.client.in_)
        self.client.in_ = -1
        began = time.monotonic()
        self.client.notify("cancel", 1)
        self.assertEqual(self.client.process.wait(SOON), 0)
        self.assert_all_gone(began)

    def test_on_sigterm(self):
        self.run_a_batch()
        began = time.monotonic()
        self.client.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.client.process.wait(SOON), 0)
        self.assert_all_gone(began)

    def test_killed(self):
        self.run_a_batch()
        began = time.monotonic()
        self.client.process.kill()
        self.client.process.wait(SOON)
        self.assert_all_gone(began)

    def test_killed_beside_workers_that_cannot_move_it_is_seen_at_once(self):
        # They hold no copy of its descriptors: else the end would not be seen before theirs.
        for worker in self.workers:
            os.kill(worker, signal.SIGSTOP)
        try:
            self.client.process.kill()
            while select.select([self.client.in_], [], [], 5)[0]:
                if os.read(self.client.in_, 65536) == b"":
                    break
            else:
                self.fail("the end of a killed port is not seen while its workers live")
        finally:
            for worker in self.workers:
                os.kill(worker, signal.SIGCONT)
        self.assert_all_gone(time.monotonic())

    def test_a_key_pressed_in_the_terminal_does_not_end_it(self):
        self.client.process.send_signal(signal.SIGINT)
        self.assertEqual(self.client.call("ping", 1), 1)


class SlowReaders(PortCase):
    def setUp(self):
        super().setUp()
        self.client.load("synthetic", engine="synthetic")

    def flood(self, n, size=2_000_000):
        """Asks for n times `size` bytes and reads nothing; comes back when the pipe to us is full."""
        data = bytes(size)
        messages = [
            self.client.request(
                "infer",
                {"model": "synthetic", "inputs": {"data": tensor("UINT8", [size], data)},
                 "parameters": {"echo": True}},
            )
            for _ in range(n)
        ]
        # On a thread: with more than 16 MiB unread it is not read from either.
        writer = threading.Thread(target=lambda: [self.client.send(m) for m in messages])
        writer.start()
        wait_until(lambda: self.unread() >= 1 << 20, "the pipe is full")
        return [message[1] for message in messages], writer

    def unread(self):
        (n,) = struct.unpack("i", fcntl.ioctl(self.client.in_, termios.FIONREAD, bytes(4)))
        return n

    def test_what_was_not_read_comes_later(self):
        ids, writer = self.flood(30)
        for id_ in ids:
            result = self.client.wait(id_)
            self.assertEqual(result["outputs"]["data"]["shape"], [2_000_000])
        writer.join()

    def test_the_end_is_seen_while_nobody_reads(self):
        # Less than what it stops reading at, so that all is sent.
        _, writer = self.flood(8)
        writer.join()
        workers = children(self.client.process.pid)
        began = time.monotonic()
        os.close(self.client.out)
        self.client.out = -1
        self.assertEqual(self.client.process.wait(SOON), 0)
        wait_until(lambda: not any(map(is_alive, workers)), "workers are gone", SOON)
        self.assertLess(time.monotonic() - began, SOON)


class DeadWorkers(PortCase):
    def setUp(self):
        super().setUp()
        self.client.load("slow", engine="synthetic", parameters={"a_us": 300_000})

    def worker(self):
        return [d["pid"] for d in self.client.call("devices") if d["name"] == "cpu:0"][0]

    def test_a_killed_worker_costs_nobody_an_error(self):
        messages = [
            self.client.request("infer", {"model": "slow", "inputs": {"data": [i]}})
            for i in range(4)
        ]
        self.client.send(*messages)
        wait_until(lambda: self.client.call("stats")["requests"]["running"] > 0, "they run")
        os.kill(self.worker(), signal.SIGKILL)
        attempts = [self.client.wait(message[1])["attempts"] for message in messages]
        self.assertGreater(max(attempts), 1)
        states = [
            n[1][0]["state"] for n in self.client.notifications
            if n[0] == "event" and n[1][0]["event"] == "device"
        ]
        self.assertIn("up", states)

    def test_a_request_that_kills_its_worker_is_named(self):
        neighbours = [self.client.submit_infer("slow", {"data": [i]}) for i in range(3)]
        poison = self.client.submit_infer("slow", {"data": [9]}, parameters={"fault": "kill"})
        error = self.assert_error("poisoned", self.client.wait, poison)
        self.assertEqual(error.scope, "request")
        for id_ in neighbours:
            self.client.wait(id_)
        result = self.client.infer("slow", {"data": [1]})
        self.assertEqual(len(struct.unpack("<Q", result["outputs"]["checksum"]["data"])), 1)


if __name__ == "__main__":
    unittest.main()
