#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether the simulator notices a core that is broken on purpose.

Each mutation is a small edit of a file of libsched/core. The core is compiled with it, beside the
checkout, and linked with the simulator that ./dev sim has built; that runs one seed after the other
until something is wrong. The exit code is 0 only if that was so for all of them, and the core as it
is passes the same seeds.
"""

import argparse
import glob
import os
import re
import subprocess
import sys
import tempfile

SEEDS = 180
EVENTS = 30000
TIMEOUT_S = 60

# What is said of jobs, of deadlines or of shares is shown best in worlds that are made for it.
GANGS = ["--profile", "gangs"]
FAIR = ["--profile", "fair"]
EXACT = ["--profile", "exact"]

# name, file, what is there once, what is put in its place, options of the simulator
MUTATIONS = [
    ("drop a requeue after a death", "session.c",
     "core_request_retry(core, r, LIBSCHED_EDEVICELOST);", "(void)r;"),
    ("forget the lift of a client", "client.c",
     "    if (s->waiting++ > 0)\n        return;\n    if (s->time < c->least)\n        s->time = c->least;\n",
     "    if (s->waiting++ > 0)\n        return;\n", FAIR),
    ("forget what a batch costs its client", "client.c",
     "s->time += ns / core_client_weight(core, client);", "s->time += 0 * ns;", FAIR),
    ("one request too many in a batch", "batch.c", "room->n >= max_n", "room->n > max_n"),
    ("one unit too many in a batch", "batch.c", "units > room->max_units", "units > room->max_units + 1"),
    ("what did not fit is forgotten", "model.c", "p->fits = units > 1 ? units / 2 : 1;", "p->fits = units;"),
    ("one request too many in a queue", "request.c",
     "m->waiting >= m->config.queue_limit", "m->waiting > m->config.queue_limit"),
    ("take a dead worker's word", "core.c", "!d->up || d->epoch != event->epoch", "!d->up"),
    ("no thought of deadlines in a batch", "batch.c",
     "room->n > 0 && deadline != UINT64_MAX &&", "false && deadline != UINT64_MAX &&"),
    ("deadlines as if the device were free", "batch.c",
     ".begin = core_device_begins(core, core->devices[device]),", ".begin = core->now,", EXACT),
    ("whoever might be late is refused", "request.c",
     "core_device_begins(core, core->devices[device]);", "core_device_free_at(core, core->devices[device]);",
     EXACT),
    ("a standstill taken for what a step takes", "profile.c",
     "return d->stalls < STALLS ? STALL * expected : ns;", "return ns;", EXACT),
    ("a device thought ever further behind", "device.c", "    d->bound -= s->step_bound;\n", ""),
    ("a strike also in company", "session.c",
     "bool strike = steps == 1 && lone &&", "bool strike = steps >= 1 &&"),
    ("company for a suspect", "session.c", "                r->flags |= CORE_ALONE;", "                (void)r;"),
    ("no account of an item's memory", "batch.c",
     "memory_per_unit == 0 || core_multiply(r->units, memory_per_unit) <= core_device_free(d)", "true"),
    ("a timer that is not made earlier", "core.c",
     "core->armed == 0 || due < core->armed", "core->armed == 0"),
    ("requests beside a rank's step", "gang_turn.c",
     "    default:\n        return 0;\n", "    default:\n        return CORE_NEVER;\n"),
    ("jobs owe requests nothing", "gang_turn.c", "        d->owed += (int64_t)owed;", "        d->owed += 0 * (int64_t)owed;"),
    ("requests that don't pay what they are owed", "gang_turn.c",
     "d->owed = d->owed > 0 ? d->owed - (int64_t)ns : -(int64_t)ns;", "d->owed += 0 * (int64_t)ns;"),
    ("no end to a job's time", "gang.c",
     "bool timed = j->time_limit != 0 && j->phase", "bool timed = false && j->phase"),
    ("patience with ranks that hang", "gang.c",
     "        gang_kill(core, late);\n", "        (void)late;\n"),
    ("backfill that puts off the first", "gang_plan.c",
     "if (!gang_ends_by(core, j, choice.devices, line->until))",
     "if (false && !gang_ends_by(core, j, choice.devices, line->until))", GANGS),
    ("a rank's memory that is not kept free", "gang.c",
     "d->gang_memory = d->config.memory_bytes == 0 ? 0 : j->memory;", "d->gang_memory = 0;"),
    ("a device that is never occupied again", "gang.c",
     "            core_device_say(core, device, CORE_SAY_OCCUPY);", "            (void)core;"),
    ("a job that ends well though ranks differ", "gang.c",
     "j->finished == j->devices ? LIBSCHED_OK : LIBSCHED_EENGINE", "LIBSCHED_OK"),
]


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **options)


def compile_source(root, source, target):
    answer = run([os.environ.get("CC", "cc"), "-std=gnu17", "-O2", "-w", "-D_GNU_SOURCE",
                  "-I" + os.path.join(root, "libsched", "include"),
                  "-I" + os.path.join(root, "libsched"), "-c", source, "-o", target])
    if answer.returncode != 0:
        sys.exit(f"mutations: {source} does not compile:\n{answer.stdout}")


class Bench:
    """A folder in which the simulator is linked with one core or another."""

    def __init__(self, root, build, folder, options):
        self.root, self.build, self.folder, self.options = root, build, folder, options
        self.core = os.path.join(root, "libsched", "core")
        self.objects = {}
        for source in sorted(glob.glob(os.path.join(self.core, "*.c"))):
            name = os.path.basename(source)
            self.objects[name] = os.path.join(folder, name + ".o")
            compile_source(root, source, self.objects[name])

    def mutate(self, name, file, old, new):
        with open(os.path.join(self.core, file), encoding="utf-8") as source:
            text = source.read()
        if text.count(old) != 1:
            sys.exit(f"mutations: \"{name}\": {file} has this {text.count(old)} times:\n{old}")
        path = os.path.join(self.folder, "mutated.c")
        with open(path, "w", encoding="utf-8") as target:
            target.write(text.replace(old, new))
        compile_source(self.root, path, path + ".o")
        return {**self.objects, file: path + ".o"}

    def simulate(self, objects, more=()):
        """How many seeds it took, and what was found; None: nothing was."""
        program = os.path.join(self.folder, "sim")
        answer = run([os.environ.get("CXX", "c++"), "-o", program,
                      os.path.join(self.build, "tests/sim/CMakeFiles/sim.dir/main.cc.o"),
                      *objects.values(), os.path.join(self.build, "tests/sim/libsim_parts.a"),
                      os.path.join(self.build, "libsched/libsched_internal.a"), "-pthread"])
        if answer.returncode != 0:
            sys.exit(f"mutations: the simulator can't be linked:\n{answer.stdout}")
        command = [program, "--seeds", str(self.options.seeds), "--events",
                   str(self.options.events), "--threads", "1", "--no-shrink", "--first-only", *more]
        try:
            answer = run(command, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "?", "it does not end"
        if answer.returncode == 0:
            return None
        ran = re.search(r"^seeds: (\d+)", answer.stdout, re.M)
        found = re.search(r"^seed \d+: (.*)", answer.stdout, re.M)
        if found is None:
            crashed = re.search(r"--first-seed (\d+)", answer.stdout)
            return (crashed.group(1) if crashed else "?"), "it crashes"
        return ran.group(1), found.group(1)


def main():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", required=True, type=os.path.abspath)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("only", nargs="*", help="words of the names of those to try")
    options = parser.parse_args()

    survivors, tried = [], 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(root, options.build, folder, options)
        for more in ([], GANGS):
            found = bench.simulate(bench.objects, more)
            if found is not None:
                sys.exit(f"mutations: the core as it is fails: {found[1]}")
        print(f"{'mutation':44} {'seeds':>5}  what was seen", flush=True)
        for name, file, old, new, *more in MUTATIONS:
            if options.only and not any(word in name for word in options.only):
                continue
            tried += 1
            found = bench.simulate(bench.mutate(name, file, old, new), *more)
            if found is None:
                survivors.append(name)
            seeds, what = found or ("-", "NOTHING")
            print(f"{name:44} {seeds:>5}  {what[:90]}", flush=True)
    print(f"mutations: {tried}, found: {tried - len(survivors)}")
    return 0 if tried > 0 and not survivors else 1


if __name__ == "__main__":
    sys.exit(main())
