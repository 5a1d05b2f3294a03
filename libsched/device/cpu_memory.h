/* SPDX-License-Identifier: Apache-2.0 */
/* Host memory for matrices: zeroed, aligned to a cache line, in huge pages where it is large. */
#ifndef DEVICE_CPU_MEMORY_H
#define DEVICE_CPU_MEMORY_H

#include <stddef.h>

/* NULL where there is no room. A size of 0 gives a pointer that must not be read. */
void *cpu_alloc(size_t size);
/* `size` as it was asked for. NULL is allowed. */
void cpu_free(void *memory, size_t size);

#endif
