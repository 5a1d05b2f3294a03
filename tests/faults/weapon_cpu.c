/* SPDX-License-Identifier: Apache-2.0 */
#include "weapon.h"

#include <signal.h>
#include <unistd.h>

/* As the kernel would say of it; a sanitizer would have its own word for a real one. */
void weapon_illegal(void)
{
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

void weapon_endless(void)
{
    for (;;)
        pause();
}
