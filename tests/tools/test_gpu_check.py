# SPDX-License-Identifier: Apache-2.0
"""What tools/gpu_check.py reads of what the fault tests say, and what it makes of it."""

import importlib.util
import os
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def load():
    path = os.path.join(ROOT, "tools", "gpu_check.py")
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LINES = """[ RUN      ] Faults/OnDevices.AnIllegalAddressCostsAnAttempt/gpu
fault: illegal address on gpu: p99 of the device beside 0.412 ms before, 0.433 ms meanwhile \
(1.05 times, all on one GPU), served again after 812 ms, 79000 MiB free before, 78999 after
fault: out of memory on cpu: p99 of the device beside 1.000 ms before, 9.000 ms meanwhile \
(9.00 times), served again after 9000 ms, 10 MiB free before, 10 after
fault: SIGKILL in a batch on gpu: p99 of the device beside 0.400 ms before, 0.500 ms meanwhile \
(1.25 times, all on one GPU), served again after 1500 ms, 79000 MiB free before, 79000 after
"""


class Runner:
    def __init__(self, code, output):
        self.code, self.output = code, output

    def program(self, path):
        return path

    def run(self, command, _timeout):
        self.command = command
        return self.code, self.output


class FaultsTest(unittest.TestCase):
    def report(self, code, output):
        module = load()
        report = module.Report()
        module.check_faults(Runner(code, output), report)
        self.assertEqual(len(report.parts), 1)
        return report.parts[0]

    def test_those_on_a_gpu_are_read(self):
        part = self.report(0, LINES)
        self.assertEqual(part["state"], "passed")
        self.assertEqual([fault["fault"] for fault in part["faults"]],
                         ["illegal address", "SIGKILL in a batch"])
        self.assertEqual(part["faults"][0]["free_after_mib"], 78999)
        self.assertEqual(part["text"],
                         "2 faults; p99 of the device beside up to 1.25 times what it was, served "
                         "again after 1500 ms at most (all on one GPU)")
        self.assertIn("SIGKILL in a batch | 0.4 | 0.5 | 1.25 | 1500 | 79000 | 79000",
                      part["output"])

    def test_what_is_missing_is_said(self):
        part = self.report(0, LINES + "no ranks are tested on one GPU: Duplicate GPU detected\n")
        self.assertIn("not those of ranks, on one GPU: Duplicate GPU detected", part["text"])
        part = self.report(0, "no GPU is tested: hwloc sees none\n")
        self.assertEqual((part["state"], part["text"]), ("skipped", "hwloc sees none"))

    def test_one_that_fails_fails(self):
        self.assertEqual(self.report(1, LINES)["state"], "failed")
        self.assertEqual(self.report(0, "nothing of the sort\n")["state"], "failed")
        self.assertEqual(self.report(None, LINES)["state"], "failed")


if __name__ == "__main__":
    unittest.main()
