/* SPDX-License-Identifier: Apache-2.0 */
/* Large pieces are mapped by themselves, so that the system takes them back when they are freed. */
#include "device/cpu_memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CACHE_LINE ((size_t)64)
#define LARGE ((size_t)2 << 20)

static size_t round_up(size_t size, size_t to)
{
    return (size + to - 1) / to * to;
}

void *cpu_alloc(size_t size)
{
    void *memory;

    if (size > SIZE_MAX / 2)
        return NULL;
    if (size < LARGE) {
        size = round_up(size > 0 ? size : 1, CACHE_LINE);
        memory = aligned_alloc(CACHE_LINE, size);
        if (memory != NULL)
            memset(memory, 0, size);
        return memory;
    }
    memory = mmap(NULL, round_up(size, LARGE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    /* A wish: without huge pages it works all the same. */
    madvise(memory, round_up(size, LARGE), MADV_HUGEPAGE);
    return memory;
}

void cpu_free(void *memory, size_t size)
{
    if (memory == NULL)
        return;
    if (size < LARGE)
        free(memory);
    else
        munmap(memory, round_up(size, LARGE));
}
