# SPDX-License-Identifier: Apache-2.0
"""Jobs: programs on two devices, and devices that are reserved."""

import os
import signal
import unittest

from sched_port_client import SchedError
from support import PortCase, is_alive, wait_until

SMALL = {"m": 64, "n": 64, "k": 64}


class Jobs(PortCase):
    # The last one counts: two small devices.
    options = ("--cpu-devices=2", "--first-job=7")

    def submit(self, program="gemm", parameters=None, **options):
        answer = self.client.call(
            "submit", {"program": program, "parameters": {**SMALL, **(parameters or {})}, **options}
        )
        self.assertEqual(list(answer), ["job"])
        return answer["job"]

    def endless(self, **options):
        return self.submit(parameters={"seconds": 3600}, **options)

    def reserve(self, **options):
        return self.client.call("reserve", options)["job"]

    def job_events(self, job):
        """Those that have come."""
        return [
            n[1][0]
            for n in self.client.notifications
            if n[0] == "event" and n[1][0]["event"] == "job" and n[1][0]["job"] == job
        ]

    def until(self, job, state):
        """Reads until the job has told of this state, or its end; that event."""
        while True:
            for event in self.job_events(job):
                if event["state"] in (state, "ended"):
                    return event
            self.client.receive()

    def end_of(self, job):
        event = self.until(job, "ended")
        self.assertEqual(self.job_events(job)[-1], event, "its end is the last that is told of it")
        return event

    def describe(self, job):
        return self.client.call("job", {"job": job})

    def cancel(self, job):
        self.assertIsNone(self.client.call("cancel_job", {"job": job}))

    def device(self, name):
        return [d for d in self.client.call("devices") if d["name"] == name][0]

    def test_one_runs_on_two_devices(self):
        job = self.submit(parameters={"steps": 3}, devices=2, name="mine", client="me")
        self.assertEqual(job, 7)
        end = self.end_of(job)
        self.assertIsNone(end["status"], end)
        self.assertEqual(end["name"], "mine")
        self.assertEqual(end["devices"], ["cpu:0", "cpu:1"])
        self.assertGreater(end["result"]["flops_per_s"], 0)
        self.assertGreater(end["result"]["products"], 0)
        seen = []
        for event in self.job_events(job):
            self.assertEqual(
                set(event) - {"total", "status", "result"},
                {"event", "job", "name", "state", "done", "message", "devices"},
            )
            if event["state"] not in seen:
                seen.append(event["state"])
        self.assertEqual(seen, ["pending", "starting", "running", "closing", "ended"])
        self.assert_error("not_found", self.describe, job)
        self.assertEqual(self.client.call("jobs"), [])

    def test_one_says_what_it_is_at_and_why(self):
        running = self.endless(devices=2, client="me", priority=2)
        self.until(running, "running")
        job = self.describe(running)
        self.assertEqual(job["state"], "running")
        self.assertEqual(job["program"], "gemm")
        self.assertEqual(job["client"], "me")
        self.assertIn("has cpu:0 and cpu:1", job["why"])
        self.assertNotEqual(job["text"], "")
        waiting = self.submit(parameters={"steps": 1}, allowed=["cpu:1"])
        self.until(waiting, "pending")
        job = self.describe(waiting)
        self.assertIn(f"job {running}", job["why"])
        self.assertEqual(job["devices"], [])
        self.assertEqual([j["job"] for j in self.client.call("jobs")], [running, waiting])
        self.cancel(running)
        self.assertEqual(self.end_of(running)["status"]["code"], "cancelled")
        self.assertIsNone(self.end_of(waiting)["status"])
        self.assert_error("not_found", self.cancel, running)

    def test_inference_goes_on_beside_one(self):
        self.client.load("synthetic", engine="synthetic")
        job = self.endless(devices=2)
        self.until(job, "running")
        for i in range(20):
            self.client.infer("synthetic", {"data": [i]})
        self.assertEqual(self.describe(job)["state"], "running")
        self.cancel(job)
        self.end_of(job)

    def test_one_ends_when_its_time_is_up(self):
        job = self.endless(devices=1, time_limit_ms=100)
        status = self.end_of(job)["status"]
        self.assertEqual(status["code"], "time_limit")
        self.assertEqual(status["scope"], "request")

    def test_one_ends_with_its_worker_and_nothing_else_does(self):
        self.client.load("synthetic", engine="synthetic")
        job = self.endless(devices=2)
        self.until(job, "running")
        os.kill(self.device("cpu:1")["pid"], signal.SIGKILL)
        status = self.end_of(job)["status"]
        self.assertEqual(status["code"], "device_lost")
        self.client.infer("synthetic", {"data": [1]})
        again = self.submit(parameters={"steps": 1}, devices=2)
        self.assertIsNone(self.end_of(again)["status"])

    def test_devices_are_held_for_others(self):
        pid = self.device("cpu:1")["pid"]
        job = self.reserve(allowed=["cpu:1"], name="own", client="me")
        self.assertEqual(self.until(job, "running")["devices"], ["cpu:1"])
        held = self.device("cpu:1")
        self.assertEqual(held["state"], "held")
        self.assertEqual(held["pid"], 0)
        self.assertIn(f"held by job {job}", held["reason"])
        wait_until(lambda: not is_alive(pid), "its worker is gone")
        self.assertNotIn("program", self.describe(job))
        self.assertIsNone(self.client.call("release", {"job": job}))
        self.assertIsNone(self.end_of(job)["status"])
        wait_until(lambda: self.device("cpu:1")["state"] == "up", "it is back")
        job = self.endless()
        error = self.assert_error("invalid_argument", self.client.call, "release", {"job": job})
        self.assertIn("cancel it instead", str(error))

    def test_what_is_wrong_is_said(self):
        for options, code, words in (
            ({"devices": 3}, "no_device", "asks for 3 devices"),
            ({"allowed": ["gpu:9"]}, "no_device", "gpu:9"),
            ({"priority": 9}, "invalid_argument", "priority"),
            ({"name": "no good"}, "invalid_argument", "no good"),
            ({"library": "x.so"}, "invalid_argument", "absolute"),
            ({"program": "nonsense"}, "not_found", 'no program "nonsense"'),
            ({"inputs": {"x": [1]}}, "invalid_argument", "no tensors"),
            ({"deadline": 1}, "invalid_argument", "unknown key"),
        ):
            with self.assertRaises(SchedError) as caught:
                self.submit(**options)
            self.assertEqual(caught.exception.code, code)
            self.assertIn(words, str(caught.exception))
        # What only the program knows comes with its end.
        status = self.end_of(self.submit(parameters={"colour": "red"}))["status"]
        self.assertEqual(status["code"], "invalid_argument")
        self.assertIn("colour", status["message"])

    def test_the_end_of_the_input_ends_them(self):
        job = self.endless(devices=2)
        self.until(job, "running")
        workers = [d["pid"] for d in self.client.call("devices")]
        self.assertEqual(self.client.close(), 0)
        wait_until(lambda: not any(map(is_alive, workers)), "workers are gone", 1)


class Limits(PortCase):
    options = ("--max-jobs=2", "--max-client-requests=2")

    def test_of_jobs(self):
        for _ in range(2):
            self.client.call("reserve", {})
        error = self.assert_error("overloaded", self.client.call, "reserve", {})
        self.assertGreater(error.retry_after_ms, 0)

    def test_of_a_client(self):
        self.client.load(
            "slow",
            engine="synthetic",
            parameters={"a_us": 200_000},
            max_batch_requests=1,
        )
        messages = [
            self.client.request(
                "infer", {"model": "slow", "inputs": {"data": [1]}, "client": client}
            )
            for client in ("me", "me", "me", "me", "me", "you")
        ]
        self.client.send(*messages)
        codes = []
        for message in messages:
            try:
                self.client.wait(message[1])
                codes.append(None)
            except SchedError as error:
                codes.append(error.code)
                self.assertGreater(error.retry_after_ms, 0)
        self.assertEqual(codes[:2] + codes[5:], [None] * 3)
        self.assertEqual(codes[4], "client_limit")


if __name__ == "__main__":
    unittest.main()
