/* SPDX-License-Identifier: Apache-2.0 */
#include "weapon.h"

#include "fake_cuda.h"

void weapon_illegal(void)
{
    fake_cuda_fail("kernel", 0, 700);
}

void weapon_endless(void)
{
    fake_cuda_fail("kernel", 0, -1);
}
