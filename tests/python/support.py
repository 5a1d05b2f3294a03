# SPDX-License-Identifier: Apache-2.0
"""Where the tests find sched-port and the weights, and what they look up in /proc."""

import os
import shutil
import time
import unittest

from sched_port_client import Client

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def find_port():
    given = os.environ.get("GPU_SCHED_PORT")
    for path in (given, os.path.join(ROOT, "build", "port", "sched-port")):
        if path and os.access(path, os.X_OK):
            return path
    return shutil.which("sched-port")


def find_model():
    path = os.environ.get("GPU_SCHED_MINILM") or os.path.join(
        ROOT, ".cache", "models", "all-MiniLM-L6-v2"
    )
    return path if os.path.isdir(path) else None


def find_test_plugin(name):
    """A plugin that the tests in C build beside sched-port."""
    port = find_port()
    path = port and os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(port))),
        "tests", "worker", "plugin", f"libsched-engine-{name}.so",
    )
    return path if path and os.path.isfile(path) else None


def wait_until(condition, what, seconds=10):
    """Asks until it is so. What is waited for is another process, which sends nothing here."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.002)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as listed:
            found += [int(child) for child in listed.read().split()]
    return found


def descriptors(pid):
    """What a process has open: number -> what it is."""
    out = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            out[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass
    return out


class PortCase(unittest.TestCase):
    """A test with a sched-port of its own."""

    options = ()

    def setUp(self):
        self.program = find_port()
        if self.program is None:
            self.skipTest("no sched-port here: build it, or set GPU_SCHED_PORT")
        self.client = self.start(*self.options)

    def start(self, *options, **how):
        # One small device, so that tests may run beside others.
        client = Client(self.program, "--cpu-devices=1", "--cores-per-device=1", *options, **how)
        self.addCleanup(self.end, client)
        return client

    @staticmethod
    def end(client):
        if client.process.poll() is None:
            try:
                client.close()
            except Exception:
                client.process.kill()
                client.process.wait()
                raise

    def assert_error(self, code, call, *args, **kwargs):
        from sched_port_client import SchedError

        with self.assertRaises(SchedError) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.code, code, caught.exception)
        return caught.exception
