/* SPDX-License-Identifier: Apache-2.0 */
/* Attention: a head's block of queries is a task, and threads take the next one when they are
 * done with theirs. */
#include <omp.h>

#include "device/cpu.h"

static int check(const libsched_device_attention_args *args, libsched_error *err)
{
    const libsched_device_sequences *s = args->sequences;
    const uint64_t width = (uint64_t)args->heads * args->head_size;
    int status;

    if (args->struct_size < sizeof(*args) || s == NULL || args->qkv == NULL || width == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "attention: no sequences, input or heads");
    status = cpu_buffer_check(args->qkv, "attention: qkv", args->qkv->datatype, s->starts[s->n],
                              3 * width, err);
    if (status == LIBSCHED_OK)
        status = cpu_buffer_check(args->output, "attention: output", args->qkv->datatype,
                                  s->starts[s->n], width, err);
    return status;
}

static void run_task(const struct cpu_device *device, const libsched_device_attention_args *args,
                     const struct cpu_query_block *block, uint32_t head, void *scratch)
{
    const libsched_device_sequences *s = args->sequences;
    const size_t width = (size_t)args->heads * args->head_size;
    const size_t element = libsched_datatype_size(args->qkv->datatype);
    const size_t start = s->starts[block->sequence];
    const size_t query = start + block->first;
    const char *first = (const char *)args->qkv->data + start * 3 * width * element;
    const size_t column = (size_t)head * args->head_size;
    const struct cpu_attention_task task = {
        .queries = first + (block->first * 3 * width + column) * element,
        .keys = first + (width + column) * element,
        .values = first + (2 * width + column) * element,
        .stride = 3 * width,
        .n_queries = block->count,
        .n_keys = s->starts[block->sequence + 1] - start,
        .head_size = args->head_size,
        .scale = args->scale,
        .bf16 = args->qkv->datatype == LIBSCHED_BF16,
        .output = (char *)args->output->data + (query * width + column) * element,
        .output_stride = width,
        .scratch = scratch,
    };

    device->kernels->attention(&task);
}

int cpu_attention(libsched_device *base, const libsched_device_attention_args *args,
                  libsched_error *err)
{
    struct cpu_device *device = (struct cpu_device *)base;
    const libsched_device_sequences *s = args->sequences;
    int status = check(args, err);
    size_t each, n_tasks;
    char *scratch;

    if (status != LIBSCHED_OK)
        return status;
    each = device->kernels->attention_scratch(CPU_QUERY_BLOCK, s->longest, args->head_size);
    each = (each + 63) / 64 * 64;
    scratch = cpu_scratch(device, each * device->threads);
    if (scratch == NULL)
        return libsched_error_set(err, LIBSCHED_ENODEVMEM, "attention: no working memory");
    n_tasks = (size_t)s->n_blocks * args->heads;

#pragma omp parallel for num_threads(device->threads) schedule(dynamic)
    for (size_t i = 0; i < n_tasks; i++)
        run_task(device, args, &s->blocks[i / args->heads], (uint32_t)(i % args->heads),
                 scratch + each * (size_t)omp_get_thread_num());
    return LIBSCHED_OK;
}
