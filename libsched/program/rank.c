/* SPDX-License-Identifier: Apache-2.0 */
#include "program/rank.h"

#include <stdlib.h>

int rank_start(libsched_program_rank **out, size_t size, const libsched_program_args *args,
               rank_open_fn open, rank_close_fn close, libsched_error *err)
{
    struct rank_head *head = calloc(1, size);
    libsched_program_rank *rank = (libsched_program_rank *)head;
    int status;

    if (head == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a rank");
    *head = (struct rank_head){
        .number = args->rank,
        .n = args->n_ranks,
        .device = args->device,
        .communicator = args->communicator,
    };
    status = open(rank, args, err);
    if (status == LIBSCHED_OK)
        *out = rank;
    else
        close(rank);
    return status;
}
