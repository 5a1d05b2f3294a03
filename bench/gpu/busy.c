/* SPDX-License-Identifier: Apache-2.0 */
#include "busy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../cuda/times.h"
#include "gpu.h"

static struct cuda_times *times;
static char path[] = "/tmp/bench-gpu-XXXXXX";

void busy_open(void)
{
    int fd = mkstemp(path);
    void *memory = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, sizeof(*times)) == 0)
        memory = mmap(NULL, sizeof(*times), PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        gpu_die(path, strerror(errno));
    close(fd);
    times = memory;
    setenv(CUDA_TIMES_VARIABLE, path, 1);
}

double busy_seconds(void)
{
    return (double)__atomic_load_n(&times->busy_ns, __ATOMIC_RELAXED) * 1e-9;
}

void busy_close(void)
{
    unsetenv(CUDA_TIMES_VARIABLE);
    munmap(times, sizeof(*times));
    unlink(path);
}
