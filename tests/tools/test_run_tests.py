# SPDX-License-Identifier: Apache-2.0
"""How tools/run_tests.py counts what the frameworks report."""

import contextlib
import importlib.util
import io
import os
import sys
import tempfile
import unittest

PATH = os.path.join(os.path.dirname(__file__), "..", "..", "tools", "run_tests.py")
spec = importlib.util.spec_from_file_location("run_tests", PATH)
run_tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_tests)

# As GoogleTest 1.12 prints it; its JSON says of the skip only that there was one.
PRINTED = """\
[==========] Running 3 tests from 1 test suite.
[ RUN      ] A.Passes
[       OK ] A.Passes (0 ms)
[ RUN      ] A.Skips
/src/a_test.cc:7: Skipped
no device
[  SKIPPED ] A.Skips (0 ms)
"""


def outcome(output, code=0):
    return run_tests.Outcome(code, output, 0.1)


class CountingTest(unittest.TestCase):
    def setUp(self):
        self.totals = run_tests.Totals()
        printed = contextlib.redirect_stdout(io.StringIO())
        printed.__enter__()
        self.addCleanup(printed.__exit__, None, None, None)

    def assert_counts(self, passed, failed, skipped):
        self.assertEqual(self.totals.count(), (passed, failed, skipped))


class GoogleTest(CountingTest):
    def report(self, *tests):
        return {"testsuites": [{"name": "A", "testsuite": list(tests)}]}

    def test_each_test_counts_once(self):
        report = self.report(
            {"name": "Passes", "status": "RUN", "result": "COMPLETED"},
            {"name": "Fails", "status": "RUN", "result": "COMPLETED",
             "failures": [{"failure": "x"}, {"failure": "y"}]},
            {"name": "Skips", "status": "RUN", "result": "SKIPPED"},
            {"name": "Off", "status": "NOTRUN", "result": "SUPPRESSED"},
        )
        run_tests.add_skip_reasons(report, PRINTED)
        run_tests.count_gtest_report("x", report, self.totals)
        self.assert_counts(1, 1, 2)
        self.assertEqual(self.totals.skips[0], ("x A.Skips", "no device"))

    def test_the_reason_of_a_skip_may_be_in_the_report(self):
        report = self.report({"name": "Skips", "result": "SKIPPED",
                              "skipped": [{"message": "a_test.cc:7\nno\ndevice\n"}]})
        run_tests.count_gtest_report("x", report, self.totals)
        self.assertEqual(self.totals.skips, [("x A.Skips", "no device")])

    def test_a_crash_fails_and_keeps_what_was_done(self):
        output = PRINTED + "[ RUN      ] A.Crashes\n"
        run_tests.count_crashed_gtest("x", outcome(output, -6), self.totals)
        self.assert_counts(1, 1, 1)
        self.assertEqual(self.totals.failures, [("x A.Crashes", "ended by SIGABRT")])

    def test_a_program_that_leaves_early_has_failed(self):
        run_tests.count_crashed_gtest("x", outcome("[ RUN      ] A.Exits\n", 0), self.totals)
        self.assert_counts(0, 1, 0)


class ExUnit(CountingTest):
    def test_states(self):
        for state in ("passed", "failed", "invalid", "skipped", "excluded"):
            self.assertFalse(run_tests.count_exunit_event({"state": state}, self.totals))
        self.assertTrue(run_tests.count_exunit_event({"state": "finished"}, self.totals))
        self.assert_counts(1, 2, 2)


class Unittest(CountingTest):
    def test_states(self):
        run_tests.count_unittest("x", outcome("""\
test_a (t.T.test_a) ... ok
test_b (t.T.test_b)
With a docstring ... skipped "no 'thing' here"
test_c (t.T.test_c) ... FAIL
======================================================================
FAIL: test_c (t.T.test_c) (i=1)
FAIL: test_c (t.T.test_c) (i=2)
Ran 3 tests in 0.001s

FAILED (failures=2, skipped=1)
""", 1), self.totals)
        self.assert_counts(1, 2, 1)
        self.assertEqual(self.totals.skips[0][1], "no 'thing' here")

    def test_no_report(self):
        run_tests.count_unittest("x", outcome("Segmentation fault", -11), self.totals)
        self.assert_counts(0, 1, 0)


class Programs(CountingTest):
    def test_one_that_does_not_end_is_ended_with_its_children(self):
        with tempfile.TemporaryDirectory() as folder:
            fifo = os.path.join(folder, "fifo")
            os.mkfifo(fifo)
            # The child holds the fifo open: end of file tells that it has gone.
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            script = f"(exec sleep 1000) >{fifo} 2>&1 & exec sleep 1000"
            ended = run_tests.run(["sh", "-c", script], 0.2)
            self.assertIsNone(ended.code)
            os.set_blocking(reader, True)
            self.assertEqual(os.read(reader, 1), b"")
            os.close(reader)

    def test_output_and_code(self):
        ended = run_tests.run([sys.executable, "-c", "print('x'); raise SystemExit(3)"], 60)
        self.assertEqual((ended.code, ended.output.strip()), (3, "x"))
        self.assertEqual(ended.describe(), "exit code 3")


class Beside(CountingTest):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def programs(self, *scripts):
        return [{"name": f"[x] {i}", "report": f"x-{i}.json", "command": ["sh", "-c", script],
                 "env": {"WORD": "passed"}, "cwd": self.folder, "timeout": 60, "skip_code": 77}
                for i, script in enumerate(scripts)]

    def beside(self, *scripts):
        return run_tests.Beside(self.programs(*scripts), self.folder, self.totals)

    def test_what_runs_beside_is_waited_for_and_counted(self):
        with self.beside("test $WORD = passed", "echo why; exit 77", "exit 3"):
            with self.totals.lock:
                self.totals.passed += 1
        self.assert_counts(2, 1, 1)

    def test_an_exception_ends_what_runs_beside_and_what_would_follow(self):
        started = os.path.join(self.folder, "started")
        os.mkfifo(started)
        with self.assertRaises(KeyboardInterrupt):
            with self.beside(f"echo >{started}; exec sleep 1000", "touch followed"):
                with open(started) as told:
                    told.read()
                raise KeyboardInterrupt
        self.assert_counts(0, 1, 0)
        self.assertIn("SIGKILL", self.totals.failures[0][1])
        self.assertFalse(os.path.exists(os.path.join(self.folder, "followed")))

    def test_what_goes_wrong_beside_goes_wrong_here(self):
        with self.assertRaises(FileNotFoundError):
            with run_tests.Beside([{**self.programs("true")[0], "cwd": "/nowhere/at/all"}],
                                  self.folder, self.totals):
                pass

    def test_its_priority_is_low(self):
        niceness = os.nice(0)
        with self.beside(f"test $(nice) = {min(niceness + 10, 19)}"):
            pass
        self.assert_counts(1, 0, 0)


class Totals(CountingTest):
    def test_nothing_at_all_is_no_success(self):
        self.assertEqual(self.totals.finish(), 1)
        self.totals.passed = 1
        self.assertEqual(self.totals.finish(), 0)
        self.totals.skip("a", "b")
        self.assertEqual(self.totals.finish(), 0)
        self.totals.fail("a")
        self.assertEqual(self.totals.finish(), 1)


if __name__ == "__main__":
    unittest.main()
