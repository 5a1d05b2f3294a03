/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives, by NCCL, on the compute stream. Sums of BF16 are carried in FP32, which NCCL does
 * not by itself: they are widened before and narrowed afterwards.
 */
#include <inttypes.h>

#include "communicator.h"

/* An operation under way. */
struct run {
    struct cuda_device *device;
    libsched_device_communicator *c;
    const libsched_device_collective_args *args;
    struct cuda_work work;
    const char *name;
    uint32_t datatype;
    const void *input;
    void *output;
};

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

static int check_root(const libsched_device_communicator *c, uint32_t root, libsched_error *err)
{
    if (root < c->meeting.n_ranks)
        return LIBSCHED_OK;
    return libsched_error_set(err, LIBSCHED_EINVAL,
                              "%s: rank %" PRIu32 " is the root, there are %" PRIu32,
                              meeting_operation_name(MEETING_BROADCAST), root, c->meeting.n_ranks);
}

static int check(const libsched_device_communicator *c, enum meeting_operation operation,
                 const libsched_device_collective_args *args, uint64_t input_parts,
                 uint64_t output_parts, libsched_error *err)
{
    const char *name = meeting_operation_name(operation);
    const bool reduces = operation == MEETING_ALL_REDUCE || operation == MEETING_REDUCE_SCATTER;
    const bool has_input = operation != MEETING_BROADCAST || args->root == c->meeting.rank;
    int status;

    if (args->struct_size < sizeof(*args) || args->output == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: no output", name);
    if (reduces && args->reduction != LIBSCHED_REDUCE_SUM && args->reduction != LIBSCHED_REDUCE_MAX)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: unknown reduction %" PRIu32, name,
                                  args->reduction);
    if (operation == MEETING_BROADCAST) {
        status = check_root(c, args->root, err);
        if (status != LIBSCHED_OK)
            return status;
    }
    if (args->count > UINT64_MAX / MEETING_MAX_RANKS)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: %" PRIu64 " elements", name,
                                  args->count);
    if ((operation == MEETING_ALL_GATHER || operation == MEETING_REDUCE_SCATTER) &&
        args->input == args->output)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: the output is its input", name);
    status = check_buffer(args->output, name, "output", args->output->datatype,
                          output_parts * args->count, err);
    if (status == LIBSCHED_OK && has_input)
        status = check_buffer(args->input, name, "input", args->output->datatype,
                              input_parts * args->count, err);
    return status;
}

/* Tells the others, and lets the stream wait for the memory that is used; `input` may be NULL. */
static int meet(struct run *run, const struct meeting_call *call, struct cuda_span *input,
                struct cuda_span *output, libsched_error *err)
{
    int status = cuda_communicator_announce(run->c, call, err);

    if (status != LIBSCHED_OK)
        return status;
    cuda_work_add(&run->work, input);
    cuda_work_add(&run->work, output);
    return cuda_work_begin(&run->work, err);
}

/* Checks the arguments, tells the others, and lets the stream wait for what it has to. */
static int begin(struct run *run, libsched_device *base, libsched_device_communicator *c,
                 enum meeting_operation operation, const libsched_device_collective_args *args,
                 uint64_t input_parts, uint64_t output_parts, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    const bool has_input = operation != MEETING_BROADCAST || args->root == c->meeting.rank;
    const bool reduces = operation == MEETING_ALL_REDUCE || operation == MEETING_REDUCE_SCATTER;
    int status = cuda_enter(device, err);

    if (status == LIBSCHED_OK)
        status = check(c, operation, args, input_parts, output_parts, err);
    if (status != LIBSCHED_OK)
        return status;
    const struct meeting_call call = {
        .operation = operation,
        .datatype = args->output->datatype,
        .reduction = reduces ? args->reduction : 0,
        .root = operation == MEETING_BROADCAST ? args->root : 0,
        .count = args->count,
    };
    *run = (struct run){
        .device = device,
        .c = c,
        .args = args,
        .work = {.device = device, .stream = CUDA_COMPUTE},
        .name = meeting_operation_name(operation),
        .datatype = args->output->datatype,
        .input = has_input ? args->input->span.data : args->output->span.data,
        .output = args->output->span.data,
    };
    return meet(run, &call, has_input ? cuda_span_of_buffer(args->input) : NULL,
                cuda_span_of_buffer(args->output), err);
}

/* After NCCL was called. */
static int end(struct run *run, int result, libsched_error *err)
{
    /* Also of what failed a part may be with the stream. */
    run->device->collective = run->c;
    cuda_work_end(&run->work);
    return cuda_communicator_settle(run->c, result, run->name, err);
}

static int type_of(uint32_t datatype)
{
    return datatype == LIBSCHED_BF16 ? NCCL_BFLOAT16 : NCCL_FLOAT32;
}

static int operation_of(uint32_t reduction)
{
    return reduction == LIBSCHED_REDUCE_MAX ? NCCL_MAX : NCCL_SUM;
}

/* A sum of BF16: `parts` times count elements go in, count come out of `at`. */
static int wide_sum(struct run *run, bool scatter, uint64_t parts, libsched_error *err)
{
    struct cuda_device *device = run->device;
    const struct nccl *nccl = run->c->nccl;
    const cudaStream_t stream = cuda_stream(device, CUDA_COMPUTE);
    const uint64_t count = run->args->count;
    const uint64_t own = scatter ? run->c->meeting.rank * count : 0;
    struct cuda_span wide;
    float *sums;
    int status = cuda_allocate(device, &wide, parts * count * sizeof(float), "a sum", err);
    int result;

    if (status != LIBSCHED_OK)
        return status;
    sums = wide.data;
    status = cuda_check(device, kernel_widen(run->input, parts * count, sums, stream),
                        "the kernel of a sum", err);
    if (status == LIBSCHED_OK) {
        if (scatter)
            result = nccl->reduce_scatter(sums, sums + own, count, NCCL_FLOAT32, NCCL_SUM,
                                          run->c->handle, stream);
        else
            result =
                nccl->all_reduce(sums, sums, count, NCCL_FLOAT32, NCCL_SUM, run->c->handle, stream);
        status = end(run, result, err);
    }
    if (status == LIBSCHED_OK)
        status = cuda_check(device, kernel_narrow(sums + own, count, run->output, stream),
                            "the kernel of a sum", err);
    cuda_work_end(&run->work);
    cuda_release(device, &wide);
    return status;
}

int cuda_all_reduce(libsched_device *base, libsched_device_communicator *c,
                    const libsched_device_collective_args *args, libsched_error *err)
{
    struct run run;
    int status = begin(&run, base, c, MEETING_ALL_REDUCE, args, 1, 1, err);

    if (status != LIBSCHED_OK || args->count == 0)
        return status;
    if (run.datatype == LIBSCHED_BF16 && args->reduction == LIBSCHED_REDUCE_SUM)
        return wide_sum(&run, false, 1, err);
    return end(&run,
               c->nccl->all_reduce(run.input, run.output, args->count, type_of(run.datatype),
                                   operation_of(args->reduction), c->handle,
                                   cuda_stream(run.device, CUDA_COMPUTE)),
               err);
}

int cuda_broadcast(libsched_device *base, libsched_device_communicator *c,
                   const libsched_device_collective_args *args, libsched_error *err)
{
    struct run run;
    int status = begin(&run, base, c, MEETING_BROADCAST, args, 1, 1, err);

    if (status != LIBSCHED_OK || args->count == 0)
        return status;
    return end(&run,
               c->nccl->broadcast(run.input, run.output, args->count, type_of(run.datatype),
                                  (int)args->root, c->handle,
                                  cuda_stream(run.device, CUDA_COMPUTE)),
               err);
}

int cuda_communicator_spread(libsched_device_communicator *c, uint32_t root, struct cuda_span *span,
                             libsched_error *err)
{
    struct cuda_device *device = c->device;
    struct run run = {.device = device,
                      .c = c,
                      .work = {.device = device, .stream = CUDA_COMPUTE},
                      .name = meeting_operation_name(MEETING_BROADCAST)};
    const struct meeting_call call = {.operation = MEETING_BROADCAST,
                                      .datatype = LIBSCHED_UINT8,
                                      .root = root,
                                      .count = span->size};
    int status = check_root(c, root, err);

    if (status == LIBSCHED_OK)
        status = meet(&run, &call, NULL, span, err);
    if (status != LIBSCHED_OK)
        return status;
    return end(&run,
               c->nccl->broadcast(span->data, span->data, span->size, NCCL_UINT8, (int)root,
                                  c->handle, cuda_stream(device, CUDA_COMPUTE)),
               err);
}

int cuda_all_gather(libsched_device *base, libsched_device_communicator *c,
                    const libsched_device_collective_args *args, libsched_error *err)
{
    struct run run;
    int status = begin(&run, base, c, MEETING_ALL_GATHER, args, 1, c->meeting.n_ranks, err);

    if (status != LIBSCHED_OK || args->count == 0)
        return status;
    return end(&run,
               c->nccl->all_gather(run.input, run.output, args->count, type_of(run.datatype),
                                   c->handle, cuda_stream(run.device, CUDA_COMPUTE)),
               err);
}

int cuda_reduce_scatter(libsched_device *base, libsched_device_communicator *c,
                        const libsched_device_collective_args *args, libsched_error *err)
{
    struct run run;
    int status = begin(&run, base, c, MEETING_REDUCE_SCATTER, args, c->meeting.n_ranks, 1, err);

    if (status != LIBSCHED_OK || args->count == 0)
        return status;
    if (run.datatype == LIBSCHED_BF16 && args->reduction == LIBSCHED_REDUCE_SUM)
        return wide_sum(&run, true, c->meeting.n_ranks, err);
    return end(&run,
               c->nccl->reduce_scatter(run.input, run.output, args->count, type_of(run.datatype),
                                       operation_of(args->reduction), c->handle,
                                       cuda_stream(run.device, CUDA_COMPUTE)),
               err);
}

int cuda_barrier(libsched_device *base, libsched_device_communicator *c, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    struct run run = {.device = device,
                      .c = c,
                      .work = {.device = device, .stream = CUDA_COMPUTE},
                      .name = meeting_operation_name(MEETING_BARRIER)};
    const struct meeting_call call = {.operation = MEETING_BARRIER};
    int status = cuda_enter(device, err);

    if (status == LIBSCHED_OK)
        status = cuda_communicator_announce(c, &call, err);
    cuda_work_add(&run.work, &c->word);
    if (status == LIBSCHED_OK)
        status = cuda_work_begin(&run.work, err);
    if (status == LIBSCHED_OK)
        status = end(&run,
                     c->nccl->all_reduce(c->word.data, c->word.data, 1, NCCL_FLOAT32, NCCL_MAX,
                                         c->handle, cuda_stream(device, CUDA_COMPUTE)),
                     err);
    return status == LIBSCHED_OK ? cuda_synchronize(base, err) : status;
}
