/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives of CPU devices, through the memory that the ranks share.
 *
 * A sum is added up by one rank for all, or by each in the same order, so that all have the same
 * one to the bit: from rank 0 on, in FP32.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "device/cpu.h"
#include "device/cpu_communicator.h"
#include "device/half.h"

/* Up to here each rank adds everything up itself, which saves a meeting. */
#define SMALL ((uint64_t)16 << 10)
/* Elements that are added up at a time: they stay in the cache of the core. */
#define BLOCK 2048
/* Shares begin at a cache line of their own, in either datatype. */
#define SHARE_ALIGN 32

/* An operation under way. */
struct run {
    libsched_device_communicator *c;
    const libsched_device_collective_args *args;
    struct cpu_call call;
    uint64_t element; /* bytes */
    const unsigned char *input;
    unsigned char *output;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ------------------------------------------------------------------------------------ checking */

static int check_buffer(const libsched_device_buffer *buffer, const char *operation,
                        const char *which, uint32_t datatype, uint64_t count, libsched_error *err)
{
    if (buffer == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: no %s", operation, which);
    if (buffer->datatype != datatype)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: the %s is %s, the other buffer %s",
                                  operation, which, libsched_datatype_name(buffer->datatype),
                                  libsched_datatype_name(datatype));
    if (buffer->rows * buffer->columns < count)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s: the %s has room for %" PRIu64 " elements, %" PRIu64
                                  " are needed",
                                  operation, which, buffer->rows * buffer->columns, count);
    return LIBSCHED_OK;
}

/* Checks an operation's arguments; inputs and outputs: the elements of its buffers. */
static int begin(struct run *run, libsched_device_communicator *c, enum cpu_operation operation,
                 const char *name, const libsched_device_collective_args *args,
                 uint64_t input_parts, uint64_t output_parts, libsched_error *err)
{
    bool reduces = operation == CPU_ALL_REDUCE || operation == CPU_REDUCE_SCATTER;
    bool has_input = operation != CPU_BROADCAST || args->root == c->rank;
    int status;

    if (args->struct_size < sizeof(*args) || args->output == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: no output", name);
    if (reduces && args->reduction != LIBSCHED_REDUCE_SUM && args->reduction != LIBSCHED_REDUCE_MAX)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: unknown reduction %" PRIu32, name,
                                  args->reduction);
    if (operation == CPU_BROADCAST && args->root >= c->n_ranks)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s: rank %" PRIu32 " is the root, there are %" PRIu32, name,
                                  args->root, c->n_ranks);
    if (args->count > UINT64_MAX / CPU_MAX_RANKS)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: %" PRIu64 " elements", name,
                                  args->count);
    if ((operation == CPU_ALL_GATHER || operation == CPU_REDUCE_SCATTER) &&
        args->input == args->output)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: the output is its input", name);
    status = check_buffer(args->output, name, "output", args->output->datatype,
                          output_parts * args->count, err);
    if (status == LIBSCHED_OK && has_input)
        status = check_buffer(args->input, name, "input", args->output->datatype,
                              input_parts * args->count, err);
    if (status != LIBSCHED_OK)
        return status;
    *run = (struct run){
        .c = c,
        .args = args,
        .call = {.operation = operation,
                 .datatype = args->output->datatype,
                 .reduction = reduces ? args->reduction : 0,
                 .root = operation == CPU_BROADCAST ? args->root : 0,
                 .count = args->count},
        .element = libsched_datatype_size(args->output->datatype),
        .input = has_input ? args->input->data : NULL,
        .output = args->output->data,
    };
    return LIBSCHED_OK;
}

/* The meeting behind a piece of `n` elements at `done`. */
static int meet(struct run *run, uint64_t done, libsched_error *err)
{
    run->call.done = done;
    return cpu_meet(run->c, &run->call, err);
}

/* -------------------------------------------------------------------------------------- adding */

static void narrow_bf16(const float *source, size_t n, uint16_t *target)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &source[i], sizeof(bits));
        /* To the nearest, ties to even; a NaN stays one. */
        bool nan = (bits & 0x7fffffff) > 0x7f800000;
        uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        target[i] = (uint16_t)(nan ? bits >> 16 | 0x40 : rounded);
    }
}

static void add_up(float *sum, const float *more, size_t n, uint32_t reduction)
{
    if (reduction == LIBSCHED_REDUCE_SUM) {
        for (size_t i = 0; i < n; i++)
            sum[i] += more[i];
        return;
    }
    /* A NaN among them is the largest. */
    for (size_t i = 0; i < n; i++)
        sum[i] = more[i] > sum[i] || isnan(more[i]) ? more[i] : sum[i];
}

/* Adds up `n` elements at `at` of all ranks' areas. */
static void reduce(const struct run *run, uint64_t at, uint64_t n, unsigned char *target)
{
    const bool bf16 = run->call.datatype == LIBSCHED_BF16;
    float sum[BLOCK], more[BLOCK];

    for (uint64_t first = 0; first < n; first += BLOCK) {
        const size_t block = least(BLOCK, n - first);
        const uint64_t offset = (at + first) * run->element;

        for (uint32_t r = 0; r < run->c->n_ranks; r++) {
            const unsigned char *from = cpu_area(run->c, r) + offset;
            float *to = r == 0 ? sum : more;

            if (bf16)
                half_widen_bf16(from, block, to);
            else
                memcpy(to, from, block * sizeof(float));
            if (r > 0)
                add_up(sum, more, block, run->call.reduction);
        }
        if (bf16)
            narrow_bf16(sum, block, (uint16_t *)(void *)(target + first * run->element));
        else
            memcpy(target + first * run->element, sum, block * sizeof(float));
    }
}

/* ---------------------------------------------------------------------------------- operations */

/* A piece of an all-reduce: each rank adds up its share for all, then takes the others'. */
static int all_reduce_piece(struct run *run, uint64_t done, uint64_t n, libsched_error *err)
{
    libsched_device_communicator *c = run->c;
    const uint64_t share =
        ((n + c->n_ranks - 1) / c->n_ranks + SHARE_ALIGN - 1) / SHARE_ALIGN * SHARE_ALIGN;
    unsigned char *own = cpu_area(c, c->rank);
    unsigned char *target = run->output + done * run->element;
    uint64_t from = least(c->rank * share, n);
    int status;

    memcpy(own, run->input + done * run->element, n * run->element);
    status = meet(run, done, err);
    if (status != LIBSCHED_OK)
        return status;
    if (n * run->element <= SMALL) {
        reduce(run, 0, n, target);
        return LIBSCHED_OK;
    }
    /* Nobody else reads this part of the own area. */
    reduce(run, from, least(share, n - from), own + from * run->element);
    status = meet(run, done, err);
    for (uint32_t r = 0; status == LIBSCHED_OK && r < c->n_ranks; r++) {
        from = least(r * share, n);
        memcpy(target + from * run->element, cpu_area(c, r) + from * run->element,
               least(share, n - from) * run->element);
    }
    return status;
}

int cpu_all_reduce(libsched_device *device, libsched_device_communicator *c,
                   const libsched_device_collective_args *args, libsched_error *err)
{
    struct run run;
    int status = begin(&run, c, CPU_ALL_REDUCE, "all_reduce", args, 1, 1, err);
    uint64_t done = 0;

    (void)device;
    if (status != LIBSCHED_OK)
        return status;
    do {
        uint64_t n = least(CPU_COMMUNICATOR_HALF / run.element, args->count - done);

        c->piece++;
        status = all_reduce_piece(&run, done, n, err);
        done += n;
    } while (status == LIBSCHED_OK && done < args->count);
    return status;
}

int cpu_broadcast(libsched_device *device, libsched_device_communicator *c,
                  const libsched_device_collective_args *args, libsched_error *err)
{
    struct run run;
    int status = begin(&run, c, CPU_BROADCAST, "broadcast", args, 1, 1, err);
    uint64_t done = 0;

    (void)device;
    if (status != LIBSCHED_OK)
        return status;
    do {
        uint64_t n = least(CPU_COMMUNICATOR_HALF / run.element, args->count - done);
        uint64_t at = done * run.element;

        c->piece++;
        if (c->rank == args->root)
            memcpy(cpu_area(c, c->rank), run.input + at, n * run.element);
        status = meet(&run, done, err);
        if (status == LIBSCHED_OK && run.input != run.output)
            memcpy(run.output + at, cpu_area(c, args->root), n * run.element);
        done += n;
    } while (status == LIBSCHED_OK && done < args->count);
    return status;
}

int cpu_all_gather(libsched_device *device, libsched_device_communicator *c,
                   const libsched_device_collective_args *args, libsched_error *err)
{
    struct run run;
    int status = begin(&run, c, CPU_ALL_GATHER, "all_gather", args, 1, c->n_ranks, err);
    uint64_t done = 0;

    (void)device;
    if (status != LIBSCHED_OK)
        return status;
    do {
        uint64_t n = least(CPU_COMMUNICATOR_HALF / run.element, args->count - done);

        c->piece++;
        memcpy(cpu_area(c, c->rank), run.input + done * run.element, n * run.element);
        status = meet(&run, done, err);
        for (uint32_t r = 0; status == LIBSCHED_OK && r < c->n_ranks; r++)
            memcpy(run.output + (r * args->count + done) * run.element, cpu_area(c, r),
                   n * run.element);
        done += n;
    } while (status == LIBSCHED_OK && done < args->count);
    return status;
}

int cpu_reduce_scatter(libsched_device *device, libsched_device_communicator *c,
                       const libsched_device_collective_args *args, libsched_error *err)
{
    struct run run;
    int status = begin(&run, c, CPU_REDUCE_SCATTER, "reduce_scatter", args, c->n_ranks, 1, err);
    uint64_t done = 0, room;

    (void)device;
    if (status != LIBSCHED_OK)
        return status;
    /* A piece holds a part of every rank's share. */
    room = CPU_COMMUNICATOR_HALF / run.element / c->n_ranks / SHARE_ALIGN * SHARE_ALIGN;
    do {
        uint64_t n = least(room, args->count - done);

        c->piece++;
        for (uint32_t r = 0; r < c->n_ranks; r++)
            memcpy(cpu_area(c, c->rank) + r * room * run.element,
                   run.input + (r * args->count + done) * run.element, n * run.element);
        status = meet(&run, done, err);
        if (status == LIBSCHED_OK)
            reduce(&run, c->rank * room, n, run.output + done * run.element);
        done += n;
    } while (status == LIBSCHED_OK && done < args->count);
    return status;
}

int cpu_barrier(libsched_device *device, libsched_device_communicator *c, libsched_error *err)
{
    const struct cpu_call call = {.operation = CPU_BARRIER};

    (void)device;
    return cpu_meet(c, &call, err);
}
