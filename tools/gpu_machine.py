# SPDX-License-Identifier: Apache-2.0
"""What there is of GPUs and of the libraries for them, for gpu_check.py and its report."""

import os
import platform
import re
import shutil
import sys

# What every driver knows comes first: one that does not know a field answers nothing at all.
CARD = ["name", "driver_version", "memory.total", "pci.bus_id", "compute_cap", "clocks.max.sm",
        "clocks.max.mem", "power.limit", "ecc.mode.current", "mig.mode.current"]
NOW = ["clocks.sm", "clocks.mem", "temperature.gpu", "power.draw",
       "clocks_throttle_reasons.active"]
KNOWN = 4
# The first that has several ranks on one GPU.
NCCL_ONE_GPU = 23000


def query(runner, fields):
    """A line for each GPU, or None with what is in the way."""
    code, output = runner.run(["nvidia-smi", "--query-gpu=" + ",".join(fields),
                               "--format=csv,noheader"], 15)
    if code != 0:
        return None, "nvidia-smi does not run here: " + " ".join(output.split())
    return [[cell.strip() for cell in line.split(",")] for line in output.strip().splitlines()], ""


def query_most(runner, fields):
    """The same of as many fields as the driver knows."""
    cards, why = query(runner, fields)
    return (cards, why) if cards is not None else query(runner, fields[:KNOWN])


# In a process of its own, which looks for libraries where the programs do.
ASK = """
import ctypes, sys
function, by_pointer, message = sys.argv[1], sys.argv[2] == "True", ""
for name in sys.argv[3:]:
    try:
        call = getattr(ctypes.CDLL(name), function)
    except (OSError, AttributeError) as error:
        message = message or str(error)
        continue
    if by_pointer:
        version = ctypes.c_int()
        call(ctypes.byref(version))
        print("version", version.value)
    else:
        call.restype = ctypes.c_size_t
        print("version", call())
    sys.exit(0)
print(message)
"""


def library_version(runner, names, function, by_pointer):
    """What a library says of its version: a number, or None with the loader's message."""
    _, output = runner.run([sys.executable, "-c", ASK, function, str(by_pointer)] + names, 15)
    found = re.match(r"version (\d+)", output)
    return (int(found.group(1)), "") if found else (None, " ".join(output.split())[-300:])


def nccl(runner):
    """Its version (23004: 2.30.4), or None with the reason."""
    given = runner.env.get("GPU_SCHED_NCCL")
    return library_version(runner, [given or "libnccl.so.2"], "ncclGetVersion", by_pointer=True)


def cublaslt(runner):
    return library_version(runner, ["libcublasLt.so.13", "libcublasLt.so.12"],
                           "cublasLtGetVersion", by_pointer=False)


def dotted_nccl(version):
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def tool(name):
    """Where one of the toolkit's programs is; None: nowhere."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def line_of(runner, name, pattern):
    path = tool(name)
    if path is None:
        return "not there"
    found = re.search(pattern, runner.run([path, "--version"], 15)[1])
    return found.group(0) if found else "it does not say"


def describe(runner):
    """All that a reader of numbers wants to know first, as names and texts."""
    machine = {"host": f"{platform.machine()}, {os.cpu_count()} cores, {platform.release()}",
               "Python": platform.python_version()}
    cards, why = query_most(runner, CARD)
    for number, card in enumerate(cards or []):
        machine[f"GPU {number}"] = ", ".join(f"{name} {cell}" for name, cell in zip(CARD, card))
    if cards is None:
        machine["GPU"] = why
    version, why = nccl(runner)
    machine["NCCL"] = dotted_nccl(version) if version else f"not there: {why}"
    version, why = cublaslt(runner)
    machine["cuBLASLt"] = str(version) if version else f"not there: {why}"
    machine["nvcc"] = line_of(runner, "nvcc", r"release [\d.]+, V[\d.]+")
    machine["compute-sanitizer"] = line_of(runner, "compute-sanitizer", r"Version [\d.]+")
    return machine


def now(runner):
    """Clocks, temperature and what slows it down, of each GPU."""
    cards, _ = query_most(runner, NOW)
    return "; ".join(", ".join(f"{name} {cell}" for name, cell in zip(NOW, card))
                     for card in cards or [])
