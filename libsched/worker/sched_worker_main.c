/* SPDX-License-Identifier: Apache-2.0 */
/* sched-worker: the process that libsched starts for each device. */
#include "worker/worker_main.h"

int main(int argc, char **argv)
{
    return libsched_worker_main(argc, argv);
}
