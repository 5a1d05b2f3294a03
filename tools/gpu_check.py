#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Everything that takes a GPU to see, in one go: ./dev gpu-check.

    gpu_check.py --build DIR [--part NAME ...] [--out DIR]    run, from a build folder
    gpu_check.py --build DIR --pack DIR                       pack what it needs for another machine
    DIR/gpu_check.py [--part NAME ...] [--out DIR]            run there

Parts: card, tests, sanitizer, faults, bench. Each can be run alone, says what it skipped and why,
and what it found goes to gpu-report.md and gpu-report.json. The exit code is 0 where nothing failed
and not everything was skipped.

A packed folder holds programs and the libraries they need, but for the C library, the driver and
cuBLASLt; it runs on an image with the CUDA libraries, Python 3 and a C library not older than that
of the machine that packed it.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys

PARTS = ["card", "tests", "sanitizer", "faults", "bench"]
MAX_PACK_BYTES = 64 << 20
# What every image with CUDA has, and what has to be that machine's own.
NOT_PACKED = re.compile(
    r"^(linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libcuda|libcublas|libcublasLt|"
    r"libnvidia.*)\.so")
PROGRAMS = ["tests/device/test-device", "bench/bench-gpu", "tests/faults/test-faults",
            "libsched/sched-worker"]
LIBRARIES = ["libsched/libsched-device-cuda.so", "libsched/libsched.so.0"]
# What is done to a GPU on purpose: in a folder of its own, since it is for nobody else.
FAULTS = ["gpu/libsched-engine-breaker.so", "program/libsched-program-breaker.so"]
# On the GPU alone, of the tests that run on every device.
ON_GPU = ("gpu.*:*operations*/gpu:*sections*/gpu:*host_memory*/gpu:*collectives*/gpu*:*processes*/gpu:"
          "*creation*/gpu:devices/ranks*/gpu")


class Report:
    def __init__(self):
        self.parts = []

    def add(self, part, state, text, **details):
        print(f"{part}: {state}: {text}", flush=True)
        self.parts.append({"part": part, "state": state, "text": text, **details})

    def write(self, folder):
        os.makedirs(folder, exist_ok=True)
        when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with open(os.path.join(folder, "gpu-report.json"), "w") as out:
            json.dump({"when": when, "parts": self.parts}, out, indent=1)
        with open(os.path.join(folder, "gpu-report.md"), "w") as out:
            out.write(f"# GPU report, {when}\n\n| part | state | |\n|---|---|---|\n")
            for part in self.parts:
                out.write(f"| {part['part']} | {part['state']} | {part['text']} |\n")
            for part in self.parts:
                if part.get("output"):
                    out.write(f"\n## {part['part']}\n\n```\n{part['output'].rstrip()}\n```\n")

    def exit_code(self):
        states = [part["state"] for part in self.parts]
        return 0 if "failed" not in states and "passed" in states else 1


class Runner:
    def __init__(self, root, packed):
        self.root, self.packed = root, packed
        self.env = dict(os.environ)
        if packed:
            lib = os.path.join(root, "lib")
            self.env["GPU_SCHED_PLUGINS"] = lib
            self.env["GPU_SCHED_FAULTS"] = os.path.join(lib, "faults")
            self.env["GPU_SCHED_WORKER"] = self.program("sched-worker")
            self.env["LD_LIBRARY_PATH"] = ":".join(
                [lib, self.env.get("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")])

    def program(self, path):
        return os.path.join(self.root, "bin", os.path.basename(path)) if self.packed \
            else os.path.join(self.root, path)

    def run(self, command, timeout):
        try:
            done = subprocess.run(command, env=self.env, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=timeout)
            return done.returncode, done.stdout.decode("utf-8", "replace")
        except subprocess.TimeoutExpired as late:
            return None, (late.stdout or b"").decode("utf-8", "replace")
        except OSError as error:
            return 127, str(error)


def tail(output, lines=40):
    return "\n".join(output.splitlines()[-lines:])


def check_card(runner, report):
    code, output = runner.run(
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,pci.bus_id",
         "--format=csv,noheader"], 30)
    if code != 0:
        report.add("card", "skipped", "nvidia-smi does not run here: " + " ".join(output.split()))
        return
    report.add("card", "passed", "; ".join(output.strip().splitlines()), output=output)


def judge_tests(part, code, output, report):
    """A GoogleTest program, of which a skip says why there is no GPU."""
    reason = re.search(r"no GPU is tested: (.*)", output)
    passed = re.search(r"\[  PASSED  \] (\d+) test", output)
    if reason:
        report.add(part, "skipped", reason.group(1))
    elif code == 0 and passed:
        report.add(part, "passed", f"{passed.group(1)} tests")
    else:
        report.add(part, "failed", f"exit code {code}", output=tail(output))


def check_tests(runner, report):
    code, output = runner.run(
        [runner.program(PROGRAMS[0]), "--gtest_filter=" + ON_GPU], 300)
    judge_tests("tests", code, output, report)


def check_sanitizer(runner, report):
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.access(tool, os.X_OK):
        report.add("sanitizer", "skipped", "there is no compute-sanitizer")
        return
    for check in ["memcheck", "racecheck"]:
        code, output = runner.run(
            [tool, "--tool", check, "--error-exitcode", "9", runner.program(PROGRAMS[0]),
             "--gtest_filter=gpu.*:*operations*/gpu:*sections*/gpu:*host_memory*/gpu"], 300)
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
    code, output = runner.run([runner.program(PROGRAMS[2]), "--gtest_filter=*/gpu"], 400)
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
        report.add("faults", "failed", f"exit code {code}", faults=faults, output=tail(output))


def check_bench(runner, report):
    code, output = runner.run([runner.program(PROGRAMS[1])], 300)
    if code == 77:
        report.add("bench", "skipped", tail(output, 1))
    elif code == 0:
        report.add("bench", "passed", "measured", output=output)
    else:
        report.add("bench", "failed", f"exit code {code}", output=tail(output))


CHECKS = {"card": check_card, "tests": check_tests, "sanitizer": check_sanitizer,
          "faults": check_faults, "bench": check_bench}


def needed_libraries(path):
    """The files that the loader takes for a program, but for those that are not packed."""
    output = subprocess.run(["ldd", path], stdout=subprocess.PIPE, check=True).stdout.decode()
    for line in output.splitlines():
        match = re.match(r"\s*(\S+) => (/\S+)", line)
        if match and not NOT_PACKED.match(match.group(1)):
            yield match.group(1), match.group(2)
        elif "not found" in line and not NOT_PACKED.match(line.strip()):
            raise SystemExit(f"gpu-check: {path} lacks a library here: {line.strip()}")


def pack(build, folder):
    for name in ["bin", "lib"]:
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    for path in PROGRAMS + LIBRARIES:
        source = os.path.join(build, path)
        if not os.path.exists(source):
            raise SystemExit(f"gpu-check: {source} is not there: build with the CUDA toolkit and "
                             "the tests first")
        where = "bin" if path in PROGRAMS else "lib"
        target = os.path.join(folder, where, os.path.basename(path))
        shutil.copy2(source, target)
        for name, library in needed_libraries(source):
            copy = os.path.join(folder, "lib", name)
            if not os.path.exists(copy):
                shutil.copy2(library, copy)
                subprocess.run(["strip", "--strip-unneeded", copy], check=False)
        subprocess.run(["strip", "--strip-unneeded", target], check=False)
    for name in FAULTS:
        source = os.path.join(build, "tests/faults", name)
        target = os.path.join(folder, "lib/faults", name)
        if not os.path.exists(source):
            raise SystemExit(f"gpu-check: {source} is not there: build test-faults first")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(source, target)
    shutil.copy2(os.path.abspath(__file__), os.path.join(folder, "gpu_check.py"))
    size = sum(os.path.getsize(os.path.join(where, name))
               for where, _, names in os.walk(folder) for name in names)
    print(f"{folder}: {size / (1 << 20):.1f} MiB; run gpu_check.py there")
    if size > MAX_PACK_BYTES:
        raise SystemExit(f"gpu-check: that is more than {MAX_PACK_BYTES >> 20} MiB")


def main():
    parser = argparse.ArgumentParser(prog="gpu-check")
    parser.add_argument("--build", help="a folder that was built with tests and benchmarks")
    parser.add_argument("--pack", metavar="DIR", help="pack for another machine instead")
    parser.add_argument("--part", action="append", choices=PARTS, help="this part alone")
    parser.add_argument("--out", default=".", help="where the report goes")
    options = parser.parse_args()
    if options.pack:
        if not options.build:
            parser.error("--pack takes --build")
        pack(options.build, options.pack)
        return 0
    here = os.path.dirname(os.path.abspath(__file__))
    runner = Runner(options.build or here, packed=not options.build)
    report = Report()
    for part in options.part or PARTS:
        CHECKS[part](runner, report)
    report.write(options.out)
    return report.exit_code()


if __name__ == "__main__":
    sys.exit(main())
