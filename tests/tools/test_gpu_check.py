# SPDX-License-Identifier: Apache-2.0
"""What tools/gpu_check.py reads of what the programs say, what it makes of it, and that it ends."""

import importlib
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
gpu_check = importlib.import_module("gpu_check")
gpu_machine = importlib.import_module("gpu_machine")
gpu_report = importlib.import_module("gpu_report")

LINES = """[ RUN      ] Faults/OnDevices.AnIllegalAddressCostsAnAttempt/gpu
fault: illegal address on gpu: p99 of the device beside 0.412 ms before, 0.433 ms meanwhile \
(1.05 times, all on one GPU), served again after 812 ms, 79000 MiB free before, 78999 after
fault: out of memory on cpu: p99 of the device beside 1.000 ms before, 9.000 ms meanwhile \
(9.00 times), served again after 9000 ms, 10 MiB free before, 10 after
fault: SIGKILL in a batch on gpu: p99 of the device beside 0.400 ms before, 0.500 ms meanwhile \
(1.25 times, all on one GPU), served again after 1500 ms, 79000 MiB free before, 79000 after
"""
PASSED = "[       OK ] a.b/gpu (1 ms)\n[  PASSED  ] 3 tests.\n"


def result(metric, value, baseline=None, **params):
    found = {"metric": metric, "params": params, "value": value, "unit": "x"}
    if baseline is not None:
        found.update(baseline=baseline, ratio=value / baseline)
    return found


class Runner:
    """Answers what it is told to, by the first word that is found in a command."""

    def __init__(self, answers, out="."):
        self.answers, self.out, self.env = answers, out, {}
        self.commands, self.environments = [], []

    def program(self, path):
        return path

    def script(self, path):
        return path

    def left(self):
        return 100

    def run(self, command, _timeout, env=None, stderr=None):
        self.commands.append(command)
        self.environments.append(env)
        line = " ".join(command)
        for word, (code, output, *said) in self.answers.items():
            if word in line:
                if said:
                    stderr.write(said[0].encode())
                return code, output
        return 127, "no such program"


def run(check, answers, out="."):
    runner, report = Runner(answers, out), gpu_report.Report()
    check(runner, report)
    return runner, report


class FaultsTest(unittest.TestCase):
    def part(self, code, output):
        _, report = run(gpu_check.check_faults, {"test-faults": (code, output)})
        self.assertEqual(len(report.parts), 1)
        return report.parts[0]

    def test_those_on_a_gpu_are_read(self):
        part = self.part(0, LINES)
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
        part = self.part(0, LINES + "no ranks are tested on one GPU: Duplicate GPU detected\n")
        self.assertIn("not those of ranks, on one GPU: Duplicate GPU detected", part["text"])
        part = self.part(0, "no GPU is tested: hwloc sees none\n")
        self.assertEqual((part["state"], part["text"]), ("skipped", "hwloc sees none"))

    def test_one_that_fails_fails(self):
        self.assertEqual(self.part(1, LINES)["state"], "failed")
        self.assertEqual(self.part(0, "nothing of the sort\n")["state"], "failed")
        part = self.part(None, LINES)
        self.assertEqual((part["state"], part["text"]), ("failed", "it did not end in time"))


class TestsTest(unittest.TestCase):
    def part(self, code, output):
        _, report = run(gpu_check.check_tests, {"test-device": (code, output)})
        return report.parts[0]["state"], report.parts[0]["text"]

    def test_a_skip_is_no_pass(self):
        self.assertEqual(self.part(0, PASSED), ("passed", "3 tests"))
        self.assertEqual(self.part(0, "no GPU is tested: no driver\n" + PASSED),
                         ("skipped", "no driver"))
        self.assertEqual(self.part(0, "[  PASSED  ] 0 tests.\n")[0], "skipped")
        missing = "no ranks are tested on one GPU: Duplicate GPU\n"
        self.assertEqual(self.part(0, missing + missing + PASSED),
                         ("passed", "3 tests; no ranks are tested on one GPU: Duplicate GPU"))
        self.assertEqual(self.part(0, missing + "[  PASSED  ] 0 tests.\n")[0], "skipped")
        self.assertEqual(self.part(127, "x: error while loading shared libraries: libcublasLt.so.13: "
                                        "cannot open\n"),
                         ("skipped", "libcublasLt.so.13: cannot open"))

    def test_a_failure_is_one(self):
        self.assertEqual(self.part(1, PASSED), ("failed", "exit code 1, 1 tests were well"))
        self.assertEqual(self.part(None, PASSED)[0], "failed")
        self.assertEqual(self.part(0, "")[0], "failed")

    def test_the_sanitizer_is_there_or_missed(self):
        _, report = run(gpu_check.check_sanitizer, {})
        self.assertEqual([part["state"] for part in report.parts], ["skipped"])


class CardTest(unittest.TestCase):
    def test_a_driver_that_does_not_know_a_field_tells_the_rest(self):
        runner, report = run(gpu_check.check_card, {
            "compute_cap": (2, "Field \"compute_cap\" is not a valid field to query.\n"),
            "nvidia-smi": (0, "NVIDIA H200, 580.1, 143771 MiB, 00000000:3B:00.0\n"),
            "ncclGetVersion": (0, "version 23004\n"), "cublasLtGetVersion": (0, "not there\n")})
        self.assertEqual(report.parts[0]["state"], "passed")
        self.assertIn("NVIDIA H200, 580.1", report.parts[0]["text"])
        self.assertIn("memory.total 143771 MiB", report.machine["GPU 0"])
        self.assertEqual(report.machine["NCCL"], "2.30.4")
        self.assertEqual(report.machine["cuBLASLt"], "not there: not there")


class RanksTest(unittest.TestCase):
    def ranks(self, version, cards):
        answers = {"ncclGetVersion": (0, version), "test-": (0, PASSED)}
        if cards:
            answers["nvidia-smi"] = (0, "NVIDIA H200\n" * cards)
        return run(gpu_check.check_ranks, answers)

    def test_without_nccl_there_are_none(self):
        _, report = self.ranks("libnccl.so.2: cannot open", 1)
        self.assertEqual(report.parts[0]["state"], "skipped")
        self.assertIn("libnccl.so.2: cannot open", report.parts[0]["text"])

    def test_one_gpu_takes_a_nccl_that_can(self):
        _, report = self.ranks("version 22809\n", 1)
        self.assertEqual(len(report.parts), 1)
        self.assertEqual(report.parts[0]["state"], "skipped")
        self.assertIn("NCCL 2.28.9", report.parts[0]["text"])
        runner, report = self.ranks("version 23004\n", 1)
        self.assertEqual([part["state"] for part in report.parts], ["passed"] * 3)
        self.assertEqual(runner.environments[-1]["NCCL_MULTI_RANK_GPU_ENABLE"], "1")

    def test_several_gpus_need_nothing_of_it(self):
        runner, report = self.ranks("version 21805\n", 4)
        self.assertEqual([part["state"] for part in report.parts], ["passed"] * 3)
        self.assertIsNone(runner.environments[-1])


class BenchTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = folder.name

    def test_all_parts_are_gathered(self):
        good = json.dumps({"machine": {"device": "a card", "model": "random weights"},
                           "results": [result("gemm_gflop_per_s", 5.0, 4.0, size=4096)]})
        _, report = run(gpu_check.check_bench, {
            "--only jobs": (0, good, "bench-gpu: not measured: allreduce: no NCCL\n"),
            "--only copies": (1, "", "bench-gpu: upload: it failed\n"),
            "--only single": (0, "no JSON", ""),
            "bench-gpu": (0, good, "")}, self.out)
        states = {part["part"]: part["state"] for part in report.parts}
        self.assertEqual(states["bench, copies"], "failed")
        self.assertEqual(states["bench, single"], "failed")
        self.assertEqual(sum(state == "passed" for state in states.values()), 6)
        self.assertEqual(len(report.results), 6)
        self.assertEqual(report.machine["benchmark's device"], "a card")
        jobs = next(part for part in report.parts if part["part"] == "bench, jobs")
        self.assertIn("not measured: allreduce: no NCCL", jobs["text"])

    def test_the_made_up_model_is_used_again(self):
        good = json.dumps({"machine": {}, "results": []})
        runner, _ = run(gpu_check.check_bench, {"bench-gpu": (0, good, "")}, self.out)
        model = os.path.join(self.out, "gpu-bench", "model")
        self.assertNotIn("--model", runner.commands[0])
        self.assertIn("--out", runner.commands[0])
        self.assertTrue(all(model in command for command in runner.commands[1:8]))

    def test_without_a_gpu_it_skips_once(self):
        _, report = run(gpu_check.check_bench,
                        {"bench-gpu": (77, "", "bench-gpu: skipped: no driver")}, self.out)
        self.assertEqual([(part["state"], part["text"]) for part in report.parts],
                         [("skipped", "no driver")])

    def test_peers_need_a_model_and_their_modules(self):
        _, report = run(gpu_check.check_peers, {}, self.out)
        self.assertEqual(report.parts[0]["state"], "skipped")
        os.makedirs(os.path.join(self.out, "gpu-bench", "model"))
        with open(os.path.join(self.out, "gpu-bench", "model", "config.json"), "w") as file:
            file.write("{}")
        _, report = run(gpu_check.check_peers,
                        {"gpu_peers": (77, "", "gpu_peers: skipped: no torch")}, self.out)
        self.assertEqual((report.parts[0]["state"], report.parts[0]["text"]),
                         ("skipped", "no torch"))
        answer = json.dumps({"machine": {"torch": "2"}, "skipped": [{"what": "a", "why": "b"}],
                             "results": [result("peer_least_cosine", 0.9999)]})
        _, report = run(gpu_check.check_peers, {"gpu_peers": (0, answer, "")}, self.out)
        self.assertEqual(report.parts[0]["state"], "passed")
        self.assertEqual(report.parts[0]["output"], "a: b")
        _, report = run(gpu_check.check_peers, {"gpu_peers": (None, "", "")}, self.out)
        self.assertEqual(report.parts[0]["state"], "failed")

    def test_peers_without_torch_say_so(self):
        with open(os.path.join(self.out, "torch.py"), "w") as file:
            file.write("raise ImportError('none here', name='torch')\n")
        done = subprocess.run([sys.executable, os.path.join(ROOT, "bench", "gpu_peers.py"),
                               "--model", self.out], env={**os.environ, "PYTHONPATH": self.out},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, gpu_check.SKIPPED)
        self.assertIn(b"Python has no torch here", done.stderr)
        self.assertEqual(done.stdout, b"")


class ReportTest(unittest.TestCase):
    results = [
        result("sequences_per_s", 95000.0, 96000.0, length=128, request=1),
        result("sequences_per_s", 96500.0, 96000.0, length=128, request=32),
        result("engine_sequences_per_s", 96000.0, 160000.0, length=128, batch=512),
        result("single_request_p50_us", 300.0, 200.0, tokens=8),
        result("peer_sequences_per_s", 20000.0, length=128, peer="sentence-transformers"),
        result("roofline_gflop_per_s", 300.0, 900.0, operation="attention", length=128, gflop=3.2,
               mb=50.0, us=40.0),
        result("peer_attention_us", 60.0, length=128, backend="flash_attention"),
    ]

    def judged(self):
        return {aim["aim"]: aim for aim in gpu_report.judge(
            self.results, [{"times": 1.05, "served_again_ms": 2100.0}])}

    def test_aims_are_judged_by_what_was_measured(self):
        judged = self.judged()
        rate = judged["sequences/s through the scheduler, 128 tokens"]
        self.assertEqual((rate["measured"], rate["reached"]), (96500.0, True))
        self.assertIs(judged["the bare loop beside bare products, 128 tokens"]["reached"], False)
        self.assertIs(judged["one short request, p50, us"]["reached"], True)
        beside = judged["sequences/s beside sentence-transformers, 128 tokens"]
        self.assertEqual((beside["measured"], beside["reached"]), (4.825, True))
        self.assertIs(judged["served again after a fault, ms"]["reached"], False)
        missing = judged["the job allreduce beside NCCL, 256 MiB"]
        self.assertEqual((missing["measured"], missing["reached"]), (None, None))

    def test_ranks_that_share_a_gpu_are_not_judged(self):
        for gpus, judged in [(1, None), (2, False)]:
            results = [result("allreduce_busbw_gb_per_s", 30.0, 40.0, ranks=2, gpus=gpus, mib=256.0)]
            aims = {aim["aim"]: aim for aim in gpu_report.judge(results, [])}
            self.assertIs(aims["the job allreduce beside NCCL, 256 MiB"]["reached"], judged)

    def test_aims_are_of_what_the_benchmark_measures(self):
        """A metric that was renamed would be missed for ever."""
        with open(os.path.join(ROOT, "bench", "gpu", "main.c")) as main, \
                open(os.path.join(ROOT, "bench", "gpu_peers.py")) as peers:
            documented = main.read() + peers.read()
        for _, metric, *_ in gpu_report.AIMS:
            self.assertIn(metric, documented)

    def test_it_can_be_read(self):
        report = gpu_report.Report()
        report.machine["GPU 0"] = "name NVIDIA H200"
        report.results = list(self.results)
        report.parts = [{"part": "bench", "state": "passed", "text": "a|b", "output": "lines"}]
        text = report.text("now")
        for line in ["| GPU 0 | name NVIDIA H200 |", "| bench | passed | a/b |",
                     "| sequences/s | 128 | sentence-transformers | 96,500 | 20,000 | 4.825 |",
                     "| attention, us | 128 | flash_attention | 40 | 60 | 1.5 |",
                     "| attention | 128 | 3.2 | 50 | 40 | products | 300 | x | 0.333333 |"]:
            self.assertIn(line, text)


class TimeTest(unittest.TestCase):
    def test_all_parts_together_end_in_ten_minutes(self):
        self.assertEqual(set(gpu_check.LIMITS), set(gpu_check.CHECKS))
        self.assertLessEqual(sum(gpu_check.LIMITS.values()), gpu_check.TOTAL)
        self.assertLess(gpu_check.TOTAL, 600)

    def test_what_does_not_end_is_ended_with_its_children(self):
        runner = gpu_check.Runner("/nowhere", packed=False)
        begin = time.monotonic()
        code, output = runner.run(["sh", "-c", "echo begun; sleep 1000 & sleep 1000"], 1)
        self.assertIsNone(code)
        self.assertEqual(output, "begun\n")
        self.assertLess(time.monotonic() - begin, 60)
        # Where all the time is over the next part is not begun.
        runner.ends = time.monotonic()
        report = gpu_report.Report()
        gpu_check.run_parts(runner, report, ["tests"])
        self.assertEqual(report.parts[0]["state"], "skipped")


class WholeTest(unittest.TestCase):
    """The program itself, over programs that only say something."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.build, self.out = folder.name + "/build", folder.name + "/out"

    def write(self, path, script):
        path = os.path.join(self.build, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("#!/bin/sh\n" + script)
        os.chmod(path, stat.S_IRWXU)

    def run_it(self, *arguments):
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("GPU_SCHED_")}
        done = subprocess.run(
            [sys.executable, os.path.join(ROOT, "tools", "gpu_check.py"), "--build", self.build,
             "--out", self.out, *arguments], env=environment, stdout=subprocess.PIPE)
        with open(os.path.join(self.out, "gpu-report.json")) as file:
            return done.returncode, json.load(file)

    def test_where_nothing_can_be_tested_all_is_skipped(self):
        for program in ["tests/device/test-device", "tests/program/test-program",
                        "tests/cuda/test-cuda-runtime", "tests/faults/test-faults"]:
            self.write(program, "echo 'no GPU is tested: a reason'\n")
        self.write("bench/bench-gpu", "echo 'bench-gpu: skipped: a reason' >&2; exit 77\n")
        code, report = self.run_it()
        self.assertEqual(code, 1, "that nothing failed is no success")
        states = {part["part"].split(",")[0]: part["state"] for part in report["parts"]}
        for part in ["tests", "scheduler", "faults", "bench", "peers"]:
            self.assertEqual(states[part], "skipped", part)
        self.assertNotIn("failed", states.values())

    def test_a_part_can_be_run_alone(self):
        self.write("tests/device/test-device", f"cat <<'X'\n{PASSED}X\n")
        code, report = self.run_it("--part", "tests", "--built", "for a card")
        self.assertEqual(code, 0)
        self.assertEqual([part["part"] for part in report["parts"]], ["tests"])
        self.assertEqual(report["machine"]["built"], "for a card")
        with open(os.path.join(self.out, "gpu-report.md")) as file:
            self.assertIn("| tests | passed | 3 tests |", file.read())


class HelpTest(unittest.TestCase):
    def test_it_says_what_each_part_does(self):
        said = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "gpu_check.py"), "--help"],
                              stdout=subprocess.PIPE, check=True).stdout.decode()
        for part in gpu_check.CHECKS:
            self.assertRegex(said, rf"(?m)^  {part} +[a-z]")
        # It asks for no build: who reads it has not decided yet.
        told = subprocess.run([os.path.join(ROOT, "dev"), "gpu-check", "--help"],
                              env={**os.environ, "GPU_SCHED_BUILD": "/nowhere/build"},
                              stdout=subprocess.PIPE, check=True).stdout.decode()
        self.assertEqual(told, said)


if __name__ == "__main__":
    unittest.main()
