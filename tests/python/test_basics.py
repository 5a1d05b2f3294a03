# SPDX-License-Identifier: Apache-2.0
"""The hello, the methods, tensors and errors, with the synthetic engine."""

import os
import struct
import subprocess
import unittest

from sched_port_client import SchedError, tensor
from support import PortCase, descriptors, find_port, is_alive


def checksum(data):
    """What the synthetic engine answers to data: see libsched/engine/synthetic.h."""
    padded = data + bytes(-len(data) % 8)
    words = struct.unpack(f"<{len(padded) // 8}Q", padded)
    total = len(data) + sum(word * (2 * i + 1) for i, word in enumerate(words))
    return total % 2**64


def checksum_of(result):
    output = result["outputs"]["checksum"]
    assert output["datatype"] == "UINT64" and output["shape"] == [1], output
    return struct.unpack("<Q", output["data"])[0]


class Basics(PortCase):
    def setUp(self):
        super().setUp()
        self.model = self.client.load("synthetic", engine="synthetic")

    def test_hello(self):
        hello = self.client.hello
        self.assertEqual(hello["pid"], self.client.process.pid)
        self.assertGreater(hello["credit"]["requests"], 0)
        self.assertGreater(hello["credit"]["bytes"], 1 << 20)
        self.assertGreaterEqual(hello["max_frame_bytes"], 1 << 20)
        self.assertLess(hello["lease_bytes"]["min"], hello["lease_bytes"]["max"])
        self.assertEqual(hello["models"], [])
        self.assertIn("cpu:0", [device["name"] for device in hello["devices"]])

    def test_load_answers_with_the_model(self):
        self.assertEqual(self.model["name"], "synthetic")
        self.assertEqual(self.model["state"], "ready")
        self.assertEqual(self.model["engine"], "synthetic")
        self.assertEqual(
            self.model["inputs"],
            [{"name": "data", "datatype": "UINT8", "shape": [-1], "optional": False}],
        )
        self.assertEqual(self.model["devices"], ["cpu:0"])
        self.assertNotIn("error", self.model)

    def test_infer(self):
        data = b"twelve bytes"
        result = self.client.infer("synthetic", {"data": tensor("UINT8", [12], data)})
        self.assertEqual(checksum_of(result), checksum(data))
        self.assertEqual(result["device"], "cpu:0")
        self.assertEqual(result["batch"], 1)
        self.assertEqual(result["attempts"], 1)
        self.assertGreaterEqual(result["queue_us"], 0)
        self.assertGreaterEqual(result["compute_us"], 0)

    def test_forms_of_a_tensor(self):
        data = bytes([1, 2, 250])
        for form in (
            tensor("UINT8", [3], data),
            tensor("UINT8", [3], [1, 2, 250]),
            [1, 2, 250],
            {b"datatype": b"UINT8", b"shape": [3], b"data": data},
        ):
            result = self.client.infer("synthetic", {"data": form})
            self.assertEqual(checksum_of(result), checksum(data))
        self.assertEqual(
            checksum_of(self.client.infer("synthetic", {"data": 7})), checksum(b"\x07")
        )

    def test_sizes_around_the_ways_they_take(self):
        # Copied, read in place, larger than the read buffer.
        for size in (0, 1, 4096, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, 5_000_011):
            data = os.urandom(size)
            result = self.client.infer(
                "synthetic", {"data": tensor("UINT8", [size], data)}, parameters={"echo": True}
            )
            self.assertEqual(checksum_of(result), checksum(data), size)
            self.assertEqual(result["outputs"]["data"]["data"], data, size)

    def test_several_messages_a_frame(self):
        requests = [
            self.client.request("infer", {"model": "synthetic", "inputs": {"data": [i]}})
            for i in range(100)
        ]
        pings = [self.client.request("ping", i) for i in range(100)]
        self.client.send(*[m for pair in zip(requests, pings) for m in pair])
        for i in range(100):
            self.assertEqual(
                checksum_of(self.client.wait(requests[i][1])), checksum(bytes([i]))
            )
            self.assertEqual(self.client.wait(pings[i][1]), i)

    def test_requests_are_batched(self):
        self.client.load("slow", engine="synthetic", parameters={"a_us": 20000})
        messages = [
            self.client.request("infer", {"model": "slow", "inputs": {"data": [i]}})
            for i in range(64)
        ]
        self.client.send(*messages)
        batches = [self.client.wait(m[1])["batch"] for m in messages]
        self.assertGreater(max(batches), 1)
        stats = self.client.call("stats")["models"]["slow"]
        self.assertEqual(stats["completed"], 64)
        self.assertEqual(stats["batched_requests"], 64)
        self.assertLess(stats["batches"], 64)

    def test_parts_under_credit(self):
        id_ = self.client.submit_infer(
            "synthetic", {"data": [1]}, parameters={"parts": 6}, parts=2
        )
        seen = []
        for _ in range(2):
            seen.append(self.client.wait_notification("part")[1])
        # No more than was granted: the device has time to be wrong meanwhile.
        self.assertEqual(self.client.call("ping", "x"), "x")
        self.assertFalse([n for n in self.client.notifications if n[0] == "part"])
        self.client.notify("grant", id_, 100)
        result = self.client.wait(id_)
        seen += [n[1] for n in self.client.notifications if n[0] == "part"]
        numbers = [struct.unpack("<I", p[1]["outputs"]["part"]["data"])[0] for p in seen]
        last = struct.unpack("<I", result["outputs"]["part"]["data"])[0]
        self.assertEqual(numbers + [last], [1, 2, 3, 4, 5, 6])
        self.assertTrue(all(p[0] == id_ for p in seen))

    def test_without_credit_only_the_last_part_comes(self):
        result = self.client.infer("synthetic", {"data": [1]}, parameters={"parts": 4})
        self.assertEqual(struct.unpack("<I", result["outputs"]["part"]["data"])[0], 4)
        self.assertFalse([n for n in self.client.notifications if n[0] == "part"])

    def test_cancel(self):
        self.client.load("slow", engine="synthetic", parameters={"a_us": 200000})
        first = self.client.submit_infer("slow", {"data": [1]})
        second = self.client.submit_infer("synthetic", {"data": [1]})
        third = self.client.submit_infer("slow", {"data": [1]})
        self.client.notify("cancel", third)
        self.assert_error("cancelled", self.client.wait, third)
        self.client.notify("cancel", 123456)
        self.client.wait(first)
        self.client.wait(second)

    def test_deadlines(self):
        self.assert_error(
            "deadline_exceeded", self.client.infer, "synthetic", {"data": [1]}, deadline=1
        )
        self.client.infer("synthetic", {"data": [1]}, deadline=self.client.deadline(10))
        self.client.load(
            "slow", engine="synthetic", parameters={"a_us": 100000, "max_batch_requests": 1}
        )
        ids = [
            self.client.submit_infer("slow", {"data": [1]}, deadline=self.client.deadline(0.15))
            for _ in range(8)
        ]
        outcomes = []
        for id_ in ids:
            try:
                self.client.wait(id_)
                outcomes.append("ok")
            except SchedError as error:
                outcomes.append(error.code)
        self.assertIn("ok", outcomes)
        self.assertIn("deadline_exceeded", outcomes)
        self.assertEqual(set(outcomes), {"ok", "deadline_exceeded"})

    def test_a_full_queue_says_when_to_come_back(self):
        self.client.load(
            "narrow", engine="synthetic", queue_limit=2,
            parameters={"a_us": 100000, "max_batch_requests": 1},
        )
        messages = [
            self.client.request("infer", {"model": "narrow", "inputs": {"data": [1]}})
            for _ in range(10)
        ]
        self.client.send(*messages)
        errors = []
        for message in messages:
            try:
                self.client.wait(message[1])
            except SchedError as error:
                errors.append(error)
        self.assertTrue(errors)
        for error in errors:
            self.assertEqual(error.code, "queue_full")
            self.assertEqual(error.scope, "model")
            self.assertGreaterEqual(error.retry_after_ms, 1)

    def test_overload_is_announced(self):
        self.client.load("one", engine="synthetic", max_batch_requests=1, queue_limit=1,
                         parameters={"a_us": 50000})
        message = {"model": "one", "inputs": {"data": [1]}}
        self.client.send(*[self.client.request("infer", message) for _ in range(6)])
        self.assertEqual(self.event("overload"), {"event": "overload", "state": "begun", "refused": 1})
        over = self.event("overload")
        self.assertEqual(over["state"], "over")
        self.assertGreaterEqual(over["refused"], 1)

    def event(self, kind):
        while True:
            event = self.client.wait_notification("event")[1][0]
            if event["event"] == kind:
                return event

    def test_histograms_count_what_was_answered(self):
        for _ in range(3):
            self.client.infer("synthetic", {"data": [1]})
        model = self.client.call("histograms")["synthetic"]
        for name in ("queue_us", "compute_us", "total_us", "batch"):
            self.assertEqual(len(model[name]), 32)
            self.assertEqual(sum(model[name]), 3)
        self.assertEqual(model["batch"][0], 3)
        self.assertEqual(model["batch_sum"], 3)

    def test_models_devices_stats(self):
        self.assertEqual([m["name"] for m in self.client.call("models")], ["synthetic"])
        device = [d for d in self.client.call("devices") if d["name"] == "cpu:0"][0]
        self.assertEqual(device["state"], "up")
        self.assertTrue(device["usable"])
        self.assertTrue(is_alive(device["pid"]))
        before = self.client.call("stats")
        self.client.infer("synthetic", {"data": [1]})
        after = self.client.call("stats")
        for scope in ("submitted", "completed", "batches", "batched_requests"):
            self.assertEqual(after["requests"][scope], before["requests"][scope] + 1, scope)
        self.assertGreaterEqual(after["port"]["messages_in"], 3)
        self.assertGreater(after["uptime_us"], before["uptime_us"])

    def test_unload(self):
        self.client.load("other", engine="synthetic")
        self.assertIsNone(self.client.call("unload", {"name": "other"}))
        self.assert_error("unknown_model", self.client.infer, "other", {"data": [1]})
        self.assert_error("unknown_model", self.client.call, "unload", {"name": "other"})
        self.client.load("other", engine="synthetic")
        self.client.infer("other", {"data": [1]})

    def test_wait_ready_and_requests_before_it(self):
        load = self.client.submit(
            "load", {"name": "late", "engine": "synthetic", "parameters": {"load_us": 300000}}
        )
        nested = self.client.submit_infer("late", {"data": [1, 2]})
        typed = self.client.submit_infer("late", {"data": tensor("UINT8", [1], b"x")})
        too_late = self.client.submit(
            "wait_ready", {"name": "late", "deadline": self.client.deadline(0.02)}
        )
        ready = self.client.submit("wait_ready", {"name": "late"})
        self.assert_error("deadline_exceeded", self.client.wait, too_late)
        self.assertEqual(self.client.wait(ready)["state"], "ready")
        self.assertEqual(self.client.wait(load)["state"], "ready")
        self.assertEqual(checksum_of(self.client.wait(nested)), checksum(b"\x01\x02"))
        self.assertEqual(checksum_of(self.client.wait(typed)), checksum(b"x"))

    def test_events(self):
        self.client.load("new", engine="synthetic")
        events = [n[1][0] for n in self.client.notifications if n[0] == "event"]
        self.assertIn(
            {"event": "model", "name": "new", "state": "ready", "error": None}, events
        )

    def test_drain(self):
        self.client.load("slow", engine="synthetic", parameters={"a_us": 100000})
        running = self.client.submit_infer("slow", {"data": [1]})
        drain = self.client.submit("drain")
        self.assert_error("closing", self.client.infer, "synthetic", {"data": [1]})
        self.client.wait(running)
        self.assertIsNone(self.client.wait(drain))
        self.assert_error("closing", self.client.load, "other", engine="synthetic")
        self.assert_error("closing", self.client.lease, 100)

    def test_drain_does_not_wait_for_a_model_to_load(self):
        load = self.client.submit(
            "load", {"name": "late", "engine": "synthetic", "parameters": {"load_us": 5_000_000}}
        )
        waiting = [
            self.client.submit_infer("late", {"data": form})
            for form in ([1], tensor("UINT8", [1], b"x"))
        ]
        self.assertIsNone(self.client.call("drain"))
        for id_ in waiting:
            self.assert_error("closing", self.client.wait, id_)
        self.assertNotIn(load, self.client.responses)


class BadInput(PortCase):
    """Each is answered by name, and the next request is served as before."""

    def setUp(self):
        super().setUp()
        self.client.load("synthetic", engine="synthetic")

    def tearDown(self):
        if self.client.out >= 0:
            self.client.infer("synthetic", {"data": [1]})

    def refused(self, code, says, *args, **kwargs):
        error = self.assert_error(code, *args, **kwargs)
        self.assertIn(says, error.error["message"])

    def test_unknown_model(self):
        self.refused("unknown_model", "nope", self.client.infer, "nope", {"data": [1]})

    def test_unknown_method(self):
        self.refused("not_supported", "fly", self.client.call, "fly")

    def test_missing_tensor(self):
        self.refused("invalid_argument", "data", self.client.infer, "synthetic", {})

    def test_extra_tensor(self):
        for extra in ([1], tensor("UINT8", [1], b"x")):
            self.refused(
                "invalid_argument", "more", self.client.infer, "synthetic",
                {"data": [1], "more": extra},
            )

    def test_misshapen_tensor(self):
        infer = self.client.infer
        self.refused("invalid_argument", "data", infer, "synthetic",
                     {"data": tensor("UINT8", [1, 1], b"x")})
        self.refused("invalid_argument", "data", infer, "synthetic",
                     {"data": tensor("UINT8", [2], b"x")})
        self.refused("invalid_argument", "inputs.data[1]", infer, "synthetic",
                     {"data": [[1, 2], [1]]})
        self.refused("invalid_argument", "shape[0]", infer, "synthetic",
                     {"data": tensor("UINT8", [-1], b"x")})
        self.refused("invalid_argument", "dimensions", infer, "synthetic",
                     {"data": tensor("UINT8", [1] * 9, b"x")})

    def test_wrong_datatype(self):
        infer = self.client.infer
        self.refused("invalid_argument", "INT8", infer, "synthetic",
                     {"data": tensor("INT8", [1], b"x")})
        self.refused("invalid_argument", "FLOAT", infer, "synthetic",
                     {"data": tensor("FLOAT", [1], b"x")})
        self.refused("invalid_argument", "256 is not within UINT8", infer, "synthetic",
                     {"data": [1, 256]})
        self.refused("invalid_argument", "a string", infer, "synthetic", {"data": ["x"]})
        self.refused("invalid_argument", "is not within", infer, "synthetic", {"data": [1.5]})

    def test_wrong_options(self):
        infer = self.client.infer
        self.refused("invalid_argument", "colour", infer, "synthetic", {"data": [1]}, colour=1)
        self.refused("invalid_argument", "priority", infer, "synthetic", {"data": [1]}, priority=8)
        self.refused("invalid_argument", "client", infer, "synthetic", {"data": [1]},
                     client="c" * 64)

    def test_what_is_no_text_does_not_come_back(self):
        # Others' decoders would refuse all the models for it.
        for option in ({"engine": b"\xff\xfe"}, {"path": b"/\xff"}, {"library": b"/\xff.so"}):
            with self.assertRaises(SchedError):
                self.client.load("odd", **{"engine": "synthetic", **option})
            self.assertIn("synthetic", [m["engine"] for m in self.client.call("models")])
            for model in self.client.call("models"):
                if model["name"] == "odd":
                    self.assertEqual(model["state"], "failed")
                    self.client.call("unload", {"name": "odd"})

    def test_load_of_what_is_not_there(self):
        load = self.client.load
        self.refused("bad_model", "/nowhere", load, "m", path="/nowhere")
        self.refused("engine_failed", "no_such", load, "m2", engine="no_such_engine")
        self.refused("bad_model", "no_such.so", load, "m3", library="/no_such.so", engine="x")
        self.refused("bad_model", "bogus", load, "m4", engine="synthetic", parameters={"bogus": 1})
        self.refused("no_device", "cpu:99", load, "m5", engine="synthetic", devices=["cpu:99"])
        self.refused("already_loaded", "synthetic", load, "synthetic", engine="synthetic")
        self.refused("invalid_argument", "name", load, "a/b", engine="synthetic")


class BadFrames(PortCase):
    def bad_frame(self):
        return self.client.wait_notification("bad_frame")[1]

    def test_each_is_answered_by_its_number(self):
        ping = self.client.request("ping", 1)
        import msgpack

        good = msgpack.packb(ping)
        for payload in (
            b"\xc1",
            b"hello",
            good[:-1],
            good + b"\x00",
            b"\x94\x00\x01\xa4ping\xdd\xff\xff\xff\xff",
            b"\x94\x00\x01\xa4ping\x91" + b"\x91" * 64 + b"\x00",
            msgpack.packb([1, 1, None, None]),
            msgpack.packb([0, -1, "ping", []]),
            msgpack.packb([0, 2**32, "ping", []]),
            msgpack.packb([0, 1, "ping", {}]),
            msgpack.packb({"a": 1}),
        ):
            number = self.client.frames_sent
            self.client.send_frame(payload)
            answer = self.bad_frame()
            self.assertEqual(answer[0], number)
            self.assertIsInstance(answer[1], str)
        # Nothing of them was carried out: its id is free.
        self.client.send(ping)
        self.assertEqual(self.client.wait(ping[1]), 1)

    def test_empty_frames_are_ignored_but_counted(self):
        self.client.send_frame(b"")
        self.client.send_frame(b"\xc1")
        self.assertEqual(self.bad_frame()[0], 1)

    def test_an_id_in_use(self):
        ping = self.client.request("ping", 1)
        self.client.send(ping, ping)
        self.assertIn("in use", self.bad_frame()[1])

    def test_over_the_limit(self):
        client = self.start("--max-frame-bytes=64K")
        client.send_frame(b"x" * 3_000_000)
        number, reason = client.wait_notification("bad_frame")[1]
        self.assertEqual(number, 0)
        self.assertIn("3000000", reason)
        self.assertEqual(client.call("ping", 1), 1)

    def test_a_length_of_four_gigabytes(self):
        self.client.send_bytes(b"\xff\xff\xff\xff")
        self.assertIn("4294967295", self.bad_frame()[1])
        with open(f"/proc/{self.client.process.pid}/status", encoding="ascii") as status:
            resident = [line for line in status if line.startswith("VmRSS")][0]
        self.assertLess(int(resident.split()[1]), 300_000)

    def test_cut_by_the_end(self):
        self.client.send_bytes(b"\x00\x00\x00\x10abc")
        os.close(self.client.out)
        self.client.out = -1
        self.assertEqual(self.bad_frame()[0], 0)
        self.assertEqual(self.client.process.wait(5), 0)


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.program = find_port()
        if self.program is None:
            self.skipTest("no sched-port here: build it, or set GPU_SCHED_PORT")

    def run_port(self, *arguments):
        return subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, timeout=20,
            stdin=subprocess.DEVNULL, check=False,
        )

    def test_help_and_version(self):
        self.assertIn("--max-frame-bytes=SIZE", self.run_port("--help").stdout)
        self.assertRegex(self.run_port("--version").stdout, r"^sched-port \d+\.\d+\.\d+\n$")

    def test_what_is_not_understood(self):
        for argument in ("--colour=red", "--spin-us=x", "file", "--max-frame-bytes=9Q"):
            done = self.run_port(argument)
            self.assertEqual(done.returncode, 64)
            self.assertIn("sched-port:", done.stderr)
            self.assertEqual(done.stdout, "")

    def test_what_cannot_start(self):
        done = self.run_port("--fds=200,201")
        self.assertEqual(done.returncode, 70)
        self.assertIn("200", done.stderr)


class Descriptors(PortCase):
    def test_no_worker_has_the_stream(self):
        self.client.load("synthetic", engine="synthetic")
        port = descriptors(self.client.process.pid)
        ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in (self.client.in_, self.client.out)}
        self.assertEqual(len(ours & set(port.values())), 2)
        workers = [d["pid"] for d in self.client.call("devices") if d["pid"] > 0]
        self.assertTrue(workers)
        for pid in workers:
            self.assertFalse(ours & set(descriptors(pid).values()))

    def test_standard_output_is_standard_error(self):
        port = descriptors(self.client.process.pid)
        self.assertEqual(port[1], port[2])
        self.assertEqual(port[0], "/dev/null")


if __name__ == "__main__":
    unittest.main()
