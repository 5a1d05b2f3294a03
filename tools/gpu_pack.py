# SPDX-License-Identifier: Apache-2.0
"""What gpu_check.py runs, as a folder that another machine can run: programs, and the libraries they
need but for the C library, the driver and cuBLASLt."""

import os
import re
import shutil
import subprocess

MAX_BYTES = 64 << 20
# What every image with CUDA has, and what has to be that machine's own.
NOT_PACKED = re.compile(
    r"^(linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libcuda|libcublas|libcublasLt|"
    r"libnvidia.*)\.so")
PROGRAMS = ["tests/device/test-device", "tests/program/test-program",
            "tests/cuda/test-cuda-runtime", "tests/faults/test-faults", "bench/bench-gpu",
            "libsched/sched-worker"]
LIBRARIES = ["libsched/libsched-device-cuda.so", "libsched/libsched.so.0"]
# What is done to a GPU on purpose: in a folder of its own, since it is for nobody else.
FAULTS = ["gpu/libsched-engine-breaker.so", "program/libsched-program-breaker.so"]
SCRIPTS = ["tools/gpu_check.py", "tools/gpu_machine.py", "tools/gpu_pack.py",
           "tools/gpu_report.py", "bench/gpu_peers.py"]


def needed_libraries(path):
    """The files that the loader takes for a program, but for those that are not packed."""
    output = subprocess.run(["ldd", path], stdout=subprocess.PIPE, check=True).stdout.decode()
    for line in output.splitlines():
        match = re.match(r"\s*(\S+) => (/\S+)", line)
        if match and not NOT_PACKED.match(match.group(1)):
            yield match.group(1), match.group(2)
        elif "not found" in line and not NOT_PACKED.match(line.strip()):
            raise SystemExit(f"gpu-check: {path} lacks a library here: {line.strip()}")


def copy(source, target, stripped=True):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy2(source, target)
    if stripped:
        subprocess.run(["strip", "--strip-unneeded", target], check=False)


def built(build, path):
    source = os.path.join(build, path)
    if not os.path.exists(source):
        raise SystemExit(f"gpu-check: {source} is not there: build with the CUDA toolkit, the "
                         "tests and the benchmarks first")
    return source


def pack(root, build, folder):
    libraries = {}
    for path in PROGRAMS + LIBRARIES:
        source = built(build, path)
        libraries.update(needed_libraries(source))
        copy(source, os.path.join(folder, "bin" if path in PROGRAMS else "lib",
                                  os.path.basename(path)))
    # Ours are there already.
    for name, library in libraries.items():
        target = os.path.join(folder, "lib", name)
        if not os.path.exists(target):
            copy(library, target)
    for name in FAULTS:
        copy(built(build, os.path.join("tests/faults", name)),
             os.path.join(folder, "lib/faults", name))
    for script in SCRIPTS:
        copy(os.path.join(root, script), os.path.join(folder, os.path.basename(script)),
             stripped=False)
    size = sum(os.path.getsize(os.path.join(where, name))
               for where, _, names in os.walk(folder) for name in names)
    print(f"{folder}: {size / (1 << 20):.1f} MiB; run gpu_check.py there")
    if size > MAX_BYTES:
        raise SystemExit(f"gpu-check: that is more than {MAX_BYTES >> 20} MiB")
