#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs all tests for ./dev test and counts them.

What is counted is single tests, as their frameworks report them: GoogleTest in its JSON, ExUnit
through tools/exunit_report.exs, Python's unittest in its verbose output. A program that ends
without a report has failed, whatever its exit code says. Every skip is printed with its reason. The
last line is

    tests: N passed, N failed, N skipped

and the exit code is 0 only if something passed and nothing failed.

Programs that only compute (CTest's label "computes") run one after the other beside all others, at
low priority: what is left of a core while these wait for something is enough for them.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

# Longer than any test program takes under a sanitizer on two cores.
PROGRAM_TIMEOUT_S = 600
# The tests of clusters start many nodes, each of which takes a while to boot on a busy machine.
SUITE_TIMEOUT_S = 2400

# The exit code by which a test that is no GoogleTest program says that it was skipped.
SKIPPED_EXIT_CODE = 77

# What runs beside the others gets what they leave of the processor.
BESIDE = ["nice", "-n", "10"]


class Totals:
    def __init__(self):
        # Held while a program's results are counted and printed.
        self.lock = threading.Lock()
        self.passed = 0
        self.failures = []
        self.skips = []

    def fail(self, name, detail=""):
        self.failures.append((name, detail))
        print(f"    failed: {name}{': ' + detail if detail else ''}", flush=True)

    def skip(self, name, reason):
        reason = " ".join(reason.split()) or "no reason given"
        self.skips.append((name, reason))
        print(f"    skipped: {name}: {reason}", flush=True)

    def count(self):
        return self.passed, len(self.failures), len(self.skips)

    def finish(self):
        if self.failures:
            print("\nfailed:")
            for name, detail in self.failures:
                print(f"  {name}{': ' + detail if detail else ''}")
        passed, failed, skipped = self.count()
        print(f"tests: {passed} passed, {failed} failed, {skipped} skipped", flush=True)
        return 0 if failed == 0 and passed > 0 else 1


class Outcome:
    """How a program ended: its exit code (None when it had to be ended) and what it printed."""

    def __init__(self, code, output, seconds):
        self.code, self.output, self.seconds = code, output, seconds

    def describe(self):
        if self.code is None:
            return f"did not end within {self.seconds:.0f} s"
        if self.code < 0:
            try:
                return f"ended by {signal.Signals(-self.code).name}"
            except ValueError:
                return f"ended by signal {-self.code}"
        return f"exit code {self.code}"


def end_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run(command, timeout, env=None, cwd=None, started=lambda process: None):
    """Runs a program in a process group of its own, which is ended with it."""
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        started(process)
        output, _ = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        end_group(process)
        output, _ = process.communicate()
        code = None
    except BaseException:
        end_group(process)
        raise
    end_group(process)
    return Outcome(code, output.decode("utf-8", "replace"), time.monotonic() - start)


def print_tail(output, lines=60):
    for line in output.splitlines()[-lines:]:
        print(f"    | {line}")


# ------------------------------------------------------------------------------ C: GoogleTest


def native_programs(build, label, env):
    """The tests that CMake knows, each with its command, environment, folder and time limit."""
    answer = subprocess.run(
        ["ctest", "--test-dir", build, "--show-only=json-v1"],
        check=True,
        stdout=subprocess.PIPE,
    )
    programs = []
    for test in json.loads(answer.stdout)["tests"]:
        properties = {p["name"]: p["value"] for p in test.get("properties", [])}
        own = dict(e.split("=", 1) for e in properties.get("ENVIRONMENT", []))
        programs.append({
            "name": f"[{label}] {test['name']}",
            "report": f"{label}-{test['name']}.json",
            "command": test.get("command"),
            "env": {**env, **own},
            "cwd": properties.get("WORKING_DIRECTORY", build),
            "timeout": float(properties.get("TIMEOUT", PROGRAM_TIMEOUT_S)),
            "skip_code": int(properties.get("SKIP_RETURN_CODE", SKIPPED_EXIT_CODE)),
            "computes": "computes" in properties.get("LABELS", []),
        })
    return programs


def count_gtest_report(label, report, totals):
    for suite in report.get("testsuites", []):
        for test in suite.get("testsuite", []):
            name = f"{label} {suite['name']}.{test['name']}"
            if test.get("failures"):
                totals.fail(name)
            elif test.get("result") == "SKIPPED":
                totals.skip(name, skip_message(test))
            elif test.get("status") == "NOTRUN":
                totals.skip(name, "disabled")
            else:
                totals.passed += 1


def skip_message(test):
    messages = [s.get("message", "") for s in test.get("skipped", [])]
    # "file:line\nreason"; GoogleTest 1.12 leaves the reason to standard output.
    return " ".join(m.split("\n", 1)[-1] for m in messages)


def add_skip_reasons(report, output):
    """Takes the reasons of skips from what the program printed, for reports that lack them."""
    reasons, current, collecting = {}, None, None
    for line in output.splitlines():
        started = re.match(r"\[ RUN      \] (\S+)", line)
        if started:
            current, collecting = started.group(1), None
        elif re.match(r"\[\s+(OK|FAILED|SKIPPED)\s+\] ", line):
            current, collecting = None, None
        elif current and re.search(r":\d+: Skipped\s*$", line):
            collecting = reasons.setdefault(current, [])
        elif collecting is not None and line.strip():
            collecting.append(line.strip())
    for suite in report.get("testsuites", []):
        for test in suite.get("testsuite", []):
            name = f"{suite['name']}.{test['name']}"
            if test.get("result") == "SKIPPED" and not test.get("skipped") and name in reasons:
                test["skipped"] = [{"message": "\n" + " ".join(reasons[name])}]


def count_crashed_gtest(label, outcome, totals):
    """A program that ended without a report: what it had finished counts, the one that ran has
    failed, and those that were still to come are not known."""
    totals.passed += len(re.findall(r"^\[       OK \] ", outcome.output, re.M))
    for name in re.findall(r"^\[  SKIPPED \] (\S+) \(", outcome.output, re.M):
        totals.skip(f"{label} {name}", "see above")
    for name in re.findall(r"^\[  FAILED  \] (\S+?),? .*\(\d+ ms\)$", outcome.output, re.M):
        totals.fail(f"{label} {name}")
    running = re.findall(r"^\[ RUN      \] (\S+)", outcome.output, re.M)
    totals.fail(f"{label}{' ' + running[-1] if running else ''}", outcome.describe())


def run_program(program, scratch, totals, before=(), **options):
    """Runs one, behind the words of the command that are to stand before its own."""
    if program["command"] is None:
        with totals.lock:
            totals.fail(program["name"], "it was not built")
        return
    report_path = os.path.join(scratch, program["report"])
    outcome = run(
        [*before, *program["command"]],
        program["timeout"],
        env={**program["env"], "GTEST_OUTPUT": f"json:{report_path}"},
        cwd=program["cwd"],
        **options,
    )
    with totals.lock:
        counts = totals.count()
        count_program(program, outcome, read_json(report_path), totals)
        print_counts(program["name"], counts, totals, outcome)


def count_program(program, outcome, report, totals):
    name, n_failed = program["name"], len(totals.failures)
    if report is not None:
        add_skip_reasons(report, outcome.output)
        count_gtest_report(name, report, totals)
        # A leak or a crash after the report was written.
        if outcome.code != 0 and len(totals.failures) == n_failed:
            totals.fail(name, outcome.describe())
    elif re.search(r"^\[==========\] Running", outcome.output, re.M):
        count_crashed_gtest(name, outcome, totals)
    elif outcome.code == 0:
        totals.passed += 1
    elif outcome.code == program["skip_code"]:
        totals.skip(name, outcome.output.strip().splitlines()[-1] if outcome.output else "")
    else:
        totals.fail(name, outcome.describe())


class Beside:
    """Runs programs one after the other while the body of its `with` runs, and waits for them at
    its end. Where that ends by an exception they are ended as well."""

    def __init__(self, programs, scratch, totals):
        self.programs, self.scratch, self.totals = programs, scratch, totals
        self.lock = threading.Lock()
        self.process, self.stopped, self.error = None, False, None
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, exception, *_):
        try:
            if not exception:
                self.thread.join()
        finally:
            self.stop()
        if self.error and not exception:
            raise self.error

    def stop(self):
        with self.lock:
            self.stopped = True
            if self.process and self.process.returncode is None:
                end_group(self.process)
        self.thread.join()

    def run(self):
        try:
            for program in self.programs:
                if self.stopped:
                    break
                run_program(program, self.scratch, self.totals, BESIDE, started=self.started)
        except BaseException as error:
            self.error = error

    def started(self, process):
        with self.lock:
            self.process = process
            if self.stopped:
                end_group(process)


def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def print_counts(name, before, totals, outcome):
    passed, failed, skipped = (b - a for a, b in zip(before, totals.count()))
    if failed:
        print_tail(outcome.output)
    print(
        f"  {name}: {passed} passed, {failed} failed, {skipped} skipped "
        f"({outcome.seconds:.1f} s)",
        flush=True,
    )


# ------------------------------------------------------------------------------------- Elixir


def run_elixir(root, scratch, totals):
    folder = os.path.join(root, "elixir_client")
    if not os.path.isfile(os.path.join(folder, "mix.exs")):
        totals.fail("[elixir]", "there is no elixir_client/mix.exs")
        return
    report = os.path.join(scratch, "exunit.json")
    outcome = run(
        ["elixir", "-r", os.path.join(root, "tools", "exunit_report.exs"), "-S", "mix", "test",
         "--warnings-as-errors", "--formatter", "ExUnit.CLIFormatter",
         "--formatter", "ExUnitReport"],
        SUITE_TIMEOUT_S,
        env={"MIX_ENV": "test", "EXUNIT_REPORT": report},
        cwd=folder,
    )
    with totals.lock:
        before = totals.count()
        complete = False
        if os.path.exists(report):
            with open(report, encoding="utf-8") as lines:
                for line in lines:
                    complete = count_exunit_event(json.loads(line), totals) or complete
        if not complete:
            totals.fail("[elixir]", f"ended without a report, {outcome.describe()}")
        elif outcome.code != 0 and len(totals.failures) == before[1]:
            totals.fail("[elixir]", outcome.describe())
        print_counts("[elixir]", before, totals, outcome)


def count_exunit_event(event, totals):
    """Counts one line of the report; true for the line that ends it."""
    name = f"[elixir] {event.get('module', '')} {event.get('name', '')}"
    state = event["state"]
    if state == "passed":
        totals.passed += 1
    elif state in ("skipped", "excluded"):
        totals.skip(name, event.get("reason", ""))
    elif state != "finished":
        totals.fail(name, event.get("reason", ""))
    return state == "finished"


# ------------------------------------------------------------------------------------- Python


def python_with_msgpack():
    """A Python that has msgpack: a user's own may shadow the distribution's, which does."""
    for python in (sys.executable, shutil.which("python3"), "/usr/bin/python3"):
        if python and subprocess.run(
            [python, "-c", "import msgpack"], stderr=subprocess.DEVNULL
        ).returncode == 0:
            return python
    return None


def run_unittest(label, python, folder, totals):
    if not os.path.isdir(folder):
        return
    outcome = run(
        [python, "-m", "unittest", "discover", "-v", "-s", folder, "-t", folder],
        PROGRAM_TIMEOUT_S,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    with totals.lock:
        before = totals.count()
        count_unittest(label, outcome, totals)
        print_counts(label, before, totals, outcome)


def run_python(root, totals):
    """The client in Python, which needs msgpack, and the tests of this program."""
    python = python_with_msgpack()
    if python is None:
        totals.skip("[python]", "no Python here has the module msgpack")
    else:
        run_unittest("[python]", python, os.path.join(root, "tests", "python"), totals)
    run_unittest("[tools]", sys.executable, os.path.join(root, "tests", "tools"), totals)


def count_unittest(label, outcome, totals):
    ran = re.search(r"^Ran (\d+) tests? in ", outcome.output, re.M)
    if ran is None:
        totals.fail(label, f"ended without a report, {outcome.describe()}")
        return
    # A test's docstring, if it has one, stands in a line of its own.
    skips = re.findall(
        r"^(\S+ \([^)\n]*\))(?:\n[^\n]*)? \.\.\. skipped (['\"])(.*)\2$", outcome.output, re.M
    )
    failures = re.findall(r"^(?:FAIL|ERROR): (.*)$", outcome.output, re.M)
    counted = re.search(r"skipped=(\d+)", outcome.output.splitlines()[-1])
    n_skipped = int(counted.group(1)) if counted else 0
    for name, _, reason in skips[:n_skipped]:
        totals.skip(f"{label} {name}", reason)
    for _ in range(n_skipped - len(skips)):
        totals.skip(label, "see its output")
    for name in failures:
        totals.fail(f"{label} {name}")
    # Several subtests of one test can fail.
    failed_tests = {" ".join(name.split()[:2]) for name in failures}
    totals.passed += max(0, int(ran.group(1)) - n_skipped - len(failed_tests))
    if outcome.code != 0 and not failures:
        totals.fail(label, outcome.describe())


# -------------------------------------------------------------------------------------- format


def run_format(root, totals):
    for language in ("c", "elixir"):
        name = f"[format] {language}"
        answer = subprocess.run(
            [os.path.join(root, "dev"), "format", "--check", language],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if answer.returncode == 0:
            totals.passed += 1
        elif answer.returncode == 2:
            totals.skip(name, answer.stdout.decode())
        else:
            print_tail(answer.stderr.decode("utf-8", "replace"), 20)
            totals.fail(name, "./dev format mends it")


# ---------------------------------------------------------------------------------------- main


class PrivateEpmd:
    """The port mapper that Erlang starts for named nodes: one of our own, ended with the tests."""

    def __enter__(self):
        os.environ["ERL_EPMD_PORT"] = str(20000 + os.getpid() % 12000)

    def __exit__(self, *_):
        epmd = shutil.which("epmd")
        if epmd:
            subprocess.run([epmd, "-kill"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description="Runs all tests; see ./dev test.")
    parser.add_argument("--root", required=True, type=os.path.abspath)
    parser.add_argument("--build", required=True, type=os.path.abspath)
    parser.add_argument("--sanitized", required=True, type=os.path.abspath)
    parser.add_argument("--scratch", required=True, type=os.path.abspath)
    parser.add_argument("only", nargs="*", help="format, native, sanitized, elixir, python")
    options = parser.parse_args()
    chosen = options.only or ["format", "native", "sanitized", "elixir", "python"]

    sanitizers = {
        "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    # What runs is in sessions of its own, and ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    totals = Totals()
    programs = []
    if "native" in chosen:
        programs += native_programs(options.build, "plain", {})
    if "sanitized" in chosen:
        programs += native_programs(options.sanitized, "sanitized", sanitizers)
    if "format" in chosen:
        run_format(options.root, totals)
    computing = [program for program in programs if program["computes"]]
    with PrivateEpmd(), Beside(computing, options.scratch, totals):
        for program in programs:
            if not program["computes"]:
                run_program(program, options.scratch, totals)
        if "elixir" in chosen:
            run_elixir(options.root, options.scratch, totals)
        if "python" in chosen:
            run_python(options.root, totals)
    return totals.finish()


if __name__ == "__main__":
    sys.exit(main())
