/* SPDX-License-Identifier: Apache-2.0 */
/* On the device that is the calling thread's: the plugin has made it so. */
#include "weapon.h"

static __device__ volatile int never;

static __global__ void write_to_nothing()
{
    *(volatile int *)nullptr = 1;
}

static __global__ void wait_for_ever()
{
    while (never == 0)
        ;
}

void weapon_illegal(void)
{
    write_to_nothing<<<1, 1>>>();
}

void weapon_endless(void)
{
    wait_for_ever<<<1, 1>>>();
    (void)cudaDeviceSynchronize();
}
