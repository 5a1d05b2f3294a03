#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Everything that takes a GPU to see, in one go: ./dev gpu-check.

    gpu_check.py --build DIR [--part NAME ...] [--out DIR]    run, from a build folder
    gpu_check.py --build DIR --pack DIR                       pack what it needs for another machine
    DIR/gpu_check.py [--part NAME ...] [--out DIR]            run there

Parts, each of which can be run alone, and ends within a time of its own (ten minutes in all):

  card       what there is: GPUs, driver, libraries
  tests      each operation, graphs, copies, and the encoder, on the GPU against the CPU
  scheduler  a scheduler with real workers: models served, jobs
  ranks      two and four ranks, on one card where there is one: collectives, allreduce, train, an
             encoder that is split
  sanitizer  compute-sanitizer's memcheck and racecheck on the kernels
  faults     what goes wrong, on purpose
  bench      bench-gpu, part by part
  peers      the same model by sentence-transformers, and attention by torch, where Python has them

Each says what it skipped and why, and what was found goes to gpu-report.md and gpu-report.json. The
exit code is 0 where nothing failed and not everything was skipped.

A packed folder runs on an image with the CUDA libraries, Python 3 and a C library not older than that
of the machine that packed it.

Variables, all optional: GPU_SCHED_MINILM, a folder with real weights; GPU_SCHED_NCCL and GPU_SCHED_NVML,
the libraries to load; GPU_SCHED_BENCH_GPU_FLAGS and GPU_SCHED_PEERS_FLAGS, what else bench-gpu and
gpu_peers.py are told, as --small; GPU_SCHED_PLUGINS, another folder with the CUDA plugin.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time

import gpu_machine
import gpu_pack
from gpu_report import Report

# Seconds.
LIMITS = {"card": 15, "tests": 55, "scheduler": 35, "ranks": 85, "sanitizer": 120, "faults": 100,
          "bench": 110, "peers": 70}
TOTAL = 590
# On the GPU alone, of the tests that run on every device.
KERNELS = "gpu.*:*operations*/gpu:*sections*/gpu:*host_memory*/gpu"
ENCODER = ":encoder/*/gpu"
SCHEDULER = "*AnyGpu.ModelsAre*/gpu:*AnyGpu.Products*/gpu:*AnyGpu.Instruments*/gpu"
WORKERS = "*AnyGpu.Ranks*/gpu:*AnyGpu.AnEncoderThatIsSplit*/gpu"
COLLECTIVES = ("gpu.*:*collectives*/gpu_2:*collectives*/gpu_5:devices/processes*/gpu:devices/ranks*/gpu:"
               "devices/creation*/gpu:devices/memory*/gpu")
BENCHES = ["crosscheck", "encoder", "single", "graphs", "gemm", "copies", "jobs", "roofline"]
BENCH_SECONDS = "0.6"
SKIPPED = 77
# What NCCL needs for several ranks on one GPU.
ONE_GPU = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_MAX_CTAS": "4", "NCCL_NVLS_ENABLE": "0"}


class Runner:
    def __init__(self, root, packed, out="."):
        self.root, self.packed, self.out = root, packed, out
        self.env = dict(os.environ)
        self.ends = time.monotonic() + TOTAL
        if packed:
            lib = os.path.join(root, "lib")
            # Unless it is to be something else: the fake of a GPU, to try this.
            self.env.setdefault("GPU_SCHED_PLUGINS", lib)
            self.env.setdefault("GPU_SCHED_FAULTS", os.path.join(lib, "faults"))
            self.env.setdefault("GPU_SCHED_WORKER", self.program("sched-worker"))
            self.env["LD_LIBRARY_PATH"] = ":".join(
                [lib, self.env.get("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")])

    def program(self, path):
        return os.path.join(self.root, "bin", os.path.basename(path)) if self.packed \
            else os.path.join(self.root, path)

    def script(self, path):
        """Of the source tree, or packed."""
        here = os.path.dirname(os.path.abspath(__file__))
        return os.path.join(here, os.path.basename(path)) if self.packed \
            else os.path.join(os.path.dirname(here), path)

    def left(self):
        return self.ends - time.monotonic()

    def run(self, command, timeout, env=None, stderr=subprocess.STDOUT):
        """The exit code (None: it did not end in time), and what it printed."""
        timeout = max(1, min(timeout, self.left()))
        try:
            process = subprocess.Popen(command, env={**self.env, **(env or {})},
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=stderr, start_new_session=True)
        except OSError as error:
            return 127, str(error)
        try:
            output, _ = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            # Its workers with it.
            os.killpg(process.pid, 9)
            output, _ = process.communicate()
            code = None
        return code, output.decode("utf-8", "replace")


def tail(output, lines=40):
    return "\n".join(output.splitlines()[-lines:])


def how(code):
    return "it did not end in time" if code is None else f"exit code {code}"


def check_card(runner, report):
    report.machine.update(gpu_machine.describe(runner))
    cards, why = gpu_machine.query_most(
        runner, ["name", "driver_version", "memory.total", "pci.bus_id", "compute_cap"])
    if cards is None:
        report.add("card", "skipped", why)
        return
    report.add("card", "passed", "; ".join(", ".join(card) for card in cards))


def not_loaded(code, output):
    """What the loader says of a library that is not there, as cuBLASLt where there is no CUDA."""
    found = re.search(r"error while loading shared libraries: (.*)", output)
    return found.group(1) if code == 127 and found else None


def judge_tests(part, code, output, report):
    """A GoogleTest program, of which a skip says why there is no GPU."""
    reason = re.search(r"no GPU is tested: (.*)", output)
    # In the order in which they come, each once.
    missing = list(dict.fromkeys(re.findall(r"^(no (?:ranks|instruments|model) .*: .*)$", output,
                                            re.M)))
    passed = re.search(r"\[  PASSED  \] (\d+) test", output)
    ended = len(re.findall(r"^\[       OK \] ", output, re.M))
    if not_loaded(code, output):
        report.add(part, "skipped", not_loaded(code, output))
    elif reason:
        report.add(part, "skipped", reason.group(1))
    elif code == 0 and passed and int(passed.group(1)) > 0:
        report.add(part, "passed", "; ".join([f"{passed.group(1)} tests"] + missing))
    elif code == 0 and passed:
        report.add(part, "skipped", "; ".join(missing) or "there is no test of it to run")
    else:
        report.add(part, "failed", f"{how(code)}, {ended} tests were well", output=tail(output))


def check_tests(runner, report):
    code, output = runner.run([runner.program(gpu_pack.PROGRAMS[0]),
                               "--gtest_filter=" + KERNELS + ENCODER], LIMITS["tests"])
    judge_tests("tests", code, output, report)


def check_scheduler(runner, report):
    code, output = runner.run([runner.program(gpu_pack.PROGRAMS[2]),
                               "--gtest_filter=" + SCHEDULER], LIMITS["scheduler"])
    judge_tests("scheduler", code, output, report)


def check_ranks(runner, report):
    version, why = gpu_machine.nccl(runner)
    cards, _ = gpu_machine.query(runner, ["name"])
    alone = cards is None or len(cards) < 4
    if version is None:
        report.add("ranks", "skipped", f"NCCL is not there: {why}")
        return
    if alone and version < gpu_machine.NCCL_ONE_GPU:
        report.add("ranks", "skipped", "fewer than four GPUs, and NCCL "
                   f"{gpu_machine.dotted_nccl(version)} can't have several ranks on one; 2.30 can")
        return
    for name, program, tests, share in [("workers", gpu_pack.PROGRAMS[2], WORKERS, 0.3),
                                        ("collectives", gpu_pack.PROGRAMS[0], COLLECTIVES, 0.4),
                                        ("programs", gpu_pack.PROGRAMS[1], "*/gpu", 0.3)]:
        code, output = runner.run([runner.program(program), "--gtest_filter=" + tests],
                                  share * LIMITS["ranks"],
                                  env=ONE_GPU if alone else None)
        judge_tests(f"ranks, {name}", code, output, report)


def check_sanitizer(runner, report):
    tool = gpu_machine.tool("compute-sanitizer")
    if tool is None:
        report.add("sanitizer", "skipped", "there is no compute-sanitizer")
        return
    for check in ["memcheck", "racecheck"]:
        code, output = runner.run(
            [tool, "--tool", check, "--error-exitcode", "9",
             runner.program(gpu_pack.PROGRAMS[0]), "--gtest_filter=" + KERNELS],
            LIMITS["sanitizer"] / 2)
        judge_tests(f"sanitizer {check}", code, output, report)


FAULT = re.compile(
    r"^fault: (?P<fault>.*) on gpu: p99 of the device beside (?P<p99_before_ms>[\d.]+) ms before, "
    r"(?P<p99_meanwhile_ms>[\d.]+) ms meanwhile \((?P<times>[\d.]+) times(?P<where>[^)]*)\), "
    r"served again after (?P<served_again_ms>\d+) ms, (?P<free_before_mib>\d+) MiB free before, "
    r"(?P<free_after_mib>\d+) after$", re.M)
FAULT_COLUMNS = ["p99_before_ms", "p99_meanwhile_ms", "times", "served_again_ms",
                 "free_before_mib", "free_after_mib"]


def read_faults(output):
    """What the fault tests tell of each fault on a GPU: what it was, and numbers."""
    return [{"fault": found["fault"], "where": found["where"].lstrip(", "),
             **{name: float(found[name]) for name in FAULT_COLUMNS}}
            for found in FAULT.finditer(output)]


def fault_table(faults):
    lines = ["fault | " + " | ".join(FAULT_COLUMNS)]
    lines += [f"{fault['fault']} | " + " | ".join(f"{fault[name]:g}" for name in FAULT_COLUMNS)
              for fault in faults]
    return "\n".join(lines)


def check_faults(runner, report):
    code, output = runner.run([runner.program(gpu_pack.PROGRAMS[3]), "--gtest_filter=*/gpu"],
                              LIMITS["faults"])
    reason = re.search(r"no GPU is tested: (.*)", output)
    faults = read_faults(output)
    if reason:
        report.add("faults", "skipped", reason.group(1))
    elif code == 0 and faults:
        text = (f"{len(faults)} faults; p99 of the device beside up to "
                f"{max(fault['times'] for fault in faults):g} times what it was, served again after "
                f"{max(fault['served_again_ms'] for fault in faults):g} ms at most")
        if faults[0]["where"]:
            text += f" ({faults[0]['where']})"
        missing = re.search(r"no ranks are tested on one GPU: (.*)", output)
        if missing:
            text += f"; not those of ranks, on one GPU: {missing.group(1)}"
        report.add("faults", "passed", text, faults=faults, output=fault_table(faults))
    else:
        report.add("faults", "failed", how(code), faults=faults, output=tail(output))


def bench_folder(runner):
    return os.path.join(runner.out, "gpu-bench")


def bench_model(runner):
    """A real model, or the one that the first part of the benchmark makes up."""
    given = runner.env.get("GPU_SCHED_MINILM")
    return given if given else os.path.join(bench_folder(runner), "model")


def skip_reason(said):
    """Of a program that says "NAME: skipped: why" last."""
    return tail(said, 1).split("skipped: ", 1)[-1]


def read_json(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def check_bench(runner, report):
    ends = time.monotonic() + LIMITS["bench"]
    for bench in BENCHES:
        command = [runner.program("bench/bench-gpu"), "--json", "--seconds", BENCH_SECONDS,
                   "--only", bench]
        if bench == "crosscheck":
            command += ["--out", bench_folder(runner)]
        if bench != "crosscheck" or runner.env.get("GPU_SCHED_MINILM"):
            command += ["--model", bench_model(runner)]
        command += runner.env.get("GPU_SCHED_BENCH_GPU_FLAGS", "").split()
        with open(os.path.join(runner.out, "gpu-bench.log"), "w+b") as log:
            code, output = runner.run(command, ends - time.monotonic(), stderr=log)
            log.seek(0)
            said = log.read().decode("utf-8", "replace")
        found = read_json(output)
        if code == SKIPPED or not_loaded(code, said):
            # It will be so for all of them.
            report.add("bench", "skipped", not_loaded(code, said) or skip_reason(said))
            return
        if code != 0 or found is None:
            report.add(f"bench, {bench}", "failed", how(code), output=tail(said + output))
            continue
        for name in ["device", "model"]:
            report.machine[f"benchmark's {name}"] = found["machine"].get(name, "")
        missing = re.findall(r"^bench-gpu: not measured: (.*)$", said, re.M)
        report.results += found["results"]
        report.add(f"bench, {bench}", "passed" if found["results"] else "skipped",
                   f"{len(found['results'])} results"
                   + "".join(f"; not measured: {text}" for text in missing))
    report.machine["GPU after the benchmark"] = gpu_machine.now(runner)


def check_peers(runner, report):
    crosscheck = os.path.join(bench_folder(runner), "crosscheck.safetensors")
    if not os.path.exists(os.path.join(bench_model(runner), "config.json")):
        report.add("peers", "skipped", "there is no model: run the part bench before")
        return
    command = [sys.executable, runner.script("bench/gpu_peers.py"), "--model", bench_model(runner),
               "--seconds", "0.3", "--limit", str(LIMITS["peers"] - 10)]
    if os.path.exists(crosscheck):
        command += ["--crosscheck", crosscheck]
    command += runner.env.get("GPU_SCHED_PEERS_FLAGS", "").split()
    with open(os.path.join(runner.out, "gpu-peers.log"), "w+b") as log:
        code, output = runner.run(command, LIMITS["peers"], stderr=log)
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    found = read_json(output)
    if code == SKIPPED:
        report.add("peers", "skipped", skip_reason(said))
    elif code != 0 or found is None:
        report.add("peers", "failed", how(code), output=tail(said))
    else:
        report.results += found["results"]
        report.machine["torch"] = ", ".join(f"{k} {v}" for k, v in found["machine"].items())
        missing = [f"{entry['what']}: {entry['why']}" for entry in found["skipped"]]
        report.add("peers", "passed", f"{len(found['results'])} results, {len(missing)} left out",
                   output="\n".join(missing))


CHECKS = {"card": check_card, "tests": check_tests, "scheduler": check_scheduler,
          "ranks": check_ranks, "sanitizer": check_sanitizer, "faults": check_faults,
          "bench": check_bench, "peers": check_peers}


def run_parts(runner, report, parts):
    for part in parts:
        if runner.left() < 5:
            report.add(part, "skipped", f"the {TOTAL} s that there are for all parts are over")
        else:
            CHECKS[part](runner, report)
            # What is there already, should the next one not return.
            report.write(runner.out)


def main():
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", help="a folder that was built with tests and benchmarks")
    parser.add_argument("--built", metavar="TEXT", help="for the report: how it was built")
    parser.add_argument("--pack", metavar="DIR", help="pack for another machine instead")
    parser.add_argument("--part", action="append", choices=list(CHECKS), help="this part alone")
    parser.add_argument("--out", default=".", help="where the report goes")
    options = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    if options.pack:
        if not options.build:
            parser.error("--pack takes --build")
        gpu_pack.pack(os.path.dirname(here), options.build, options.pack)
        return 0
    os.makedirs(options.out, exist_ok=True)
    runner = Runner(options.build or here, packed=not options.build, out=options.out)
    report = Report()
    if options.built:
        report.machine["built"] = options.built
    run_parts(runner, report, options.part or list(CHECKS))
    report.write(options.out)
    return report.exit_code()


if __name__ == "__main__":
    sys.exit(main())
