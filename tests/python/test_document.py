# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md says what is there: every key that sched-port sends, every method it knows and
every status there is stands in it."""

import os
import re
import unittest

from sched_port_client import SchedError
from support import ROOT, PortCase

COUNTERS = {
    "submitted", "completed", "failed", "cancelled", "expired", "refused", "retried", "batches",
    "batched_requests", "batched_units", "queue_us", "compute_us", "queued", "running",
}
MODEL = COUNTERS | {
    "name", "state", "engine", "text", "inputs", "outputs", "devices", "max_batch_requests",
    "max_batch_units", "max_request_units", "queue_limit",
}
DEVICE = {
    "name", "kind", "model", "usable", "reason", "state", "numa_node", "cpus", "cores",
    "memory_bytes", "pid", "restarts", "busy_us", "batches",
}


READINGS = {
    "reason", "age_ms", "uuid", "utilization_percent", "memory_busy_percent", "memory_total_bytes",
    "memory_used_bytes", "temperature_c", "power_mw", "power_limit_mw", "energy_mj", "throttle",
    "links", "links_up", "ecc_corrected", "ecc_uncorrected", "xid_count", "last_xid",
}


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


class Document(PortCase):
    def setUp(self):
        super().setUp()
        self.text = read("docs", "protocol.md")
        self.words = set(re.findall(r"[a-z][a-z_0-9]+", self.text))

    def assert_keys(self, map_, keys):
        self.assertEqual(set(map_), keys)
        self.assertEqual(keys - self.words, set())

    def test_hello(self):
        hello = self.client.hello
        self.assert_keys(hello, {
            "protocol", "version", "pid", "clock_ns", "max_frame_bytes", "max_nesting",
            "max_values", "max_reply_bytes", "credit", "lease_bytes", "devices", "models",
        })
        self.assert_keys(hello["credit"], {"requests", "bytes"})
        self.assert_keys(hello["lease_bytes"], {"min", "max"})
        for device in hello["devices"]:
            gpu = {"pci", "readings"} if device["kind"] == "gpu" else set()
            self.assert_keys(device, DEVICE | gpu)

    def test_readings(self):
        # What there is no GPU to show is in the source.
        sent = re.findall(r'"([a-z_]+)"', read("port", "describe_readings.c"))
        throttle = {"power", "thermal", "hardware", "brake", "setting", "sync"}
        self.assertEqual(set(sent), READINGS | throttle)
        self.assertEqual((READINGS | throttle) - self.words, set())

    def test_results(self):
        self.assert_keys(self.client.load("m", engine="synthetic"), MODEL)
        for spec in self.client.call("models")[0]["inputs"]:
            self.assert_keys(spec, {"name", "datatype", "shape", "optional"})
        result = self.client.infer("m", {"data": [1]})
        self.assert_keys(
            result, {"outputs", "device", "batch", "queue_us", "compute_us", "attempts"}
        )
        self.assert_keys(result["outputs"]["checksum"], {"datatype", "shape", "data"})
        self.assert_keys(self.client.lease(100), {"lease", "path", "size", "expires_ms"})
        with self.assertRaises(SchedError) as failed:
            self.client.load("bad", engine="synthetic", parameters={"bogus": 1})
        self.assert_keys(failed.exception.error, {"status", "code", "scope", "message"})
        models = {model["name"]: model for model in self.client.call("models")}
        if "bad" in models:
            self.assert_keys(models["bad"], MODEL | {"error"})

    def test_stats(self):
        self.client.load("m", engine="synthetic")
        stats = self.client.call("stats")
        self.assert_keys(stats, {
            "uptime_us", "arena_bytes", "arena_used", "worker_deaths", "requests", "models",
            "devices", "port",
        })
        self.assert_keys(stats["requests"], COUNTERS)
        self.assert_keys(stats["models"]["m"], COUNTERS)
        self.assert_keys(stats["devices"]["cpu:0"], {"batches", "busy_us", "restarts"})
        self.assert_keys(stats["port"], {
            "frames_in", "messages_in", "bytes_in", "bad_frames", "frames_out", "parts_out",
            "bytes_out", "backlog_bytes", "in_flight", "held", "leases", "lease_bytes", "sleeps",
        })

    def test_methods(self):
        known = re.findall(r'\{"(\w+)", method_\w+\}', read("port", "dispatch.c"))
        self.assertGreater(len(known), 10)
        for method in known:
            self.assertRegex(self.text, rf'(`{method}` \||"{method}")')

    def test_status_codes(self):
        names = re.findall(
            r"case (LIBSCHED_E\w+):\s+return \"(\w+)\"", read("libsched", "status.c")
        )
        numbers = dict(re.findall(
            r"(LIBSCHED_E\w+) = (-\d+)", read("libsched", "include", "libsched", "status.h")
        ))
        self.assertEqual({constant for constant, _ in names}, set(numbers))
        for constant, name in names:
            self.assertIn(f"−{numbers[constant][1:]} `{name}`", self.text)


if __name__ == "__main__":
    unittest.main()
