/* SPDX-License-Identifier: Apache-2.0 */
/* Attention, by kernels of our own: with tensor cores for BF16, without for FP32. */
#include "internal.h"

static int check(const libsched_device_attention_args *args, libsched_error *err)
{
    const libsched_device_sequences *s = args->sequences;
    const uint64_t width = (uint64_t)args->heads * args->head_size;
    int status;

    if (args->struct_size < sizeof(*args) || s == NULL || args->qkv == NULL || width == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "attention: no sequences, input or heads");
    if (args->head_size > KERNEL_MAX_HEAD_SIZE || args->heads > KERNEL_MAX_HEADS)
        return libsched_error_set(
            err, LIBSCHED_ENOTSUP, "attention: %u heads of %u, at most %u of %u can be computed",
            args->heads, args->head_size, KERNEL_MAX_HEADS, KERNEL_MAX_HEAD_SIZE);
    status = cuda_buffer_check(args->qkv, "attention: qkv", args->qkv->datatype, s->tokens,
                               3 * width, err);
    if (status == LIBSCHED_OK)
        status = cuda_buffer_check(args->output, "attention: output", args->qkv->datatype,
                                   s->tokens, width, err);
    return status;
}

int cuda_attention(libsched_device *base, const libsched_device_attention_args *args,
                   libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    struct cuda_work work = {.device = device, .stream = CUDA_COMPUTE};
    int status = cuda_enter_operation(device, err);
    cudaError_t code;

    if (status == LIBSCHED_OK)
        status = check(args, err);
    if (status != LIBSCHED_OK || args->sequences->tokens == 0)
        return status;
    const struct kernel_attention_args kernel = {
        .sequences = cuda_sequences_view(device, args->sequences),
        .qkv = args->qkv->span.data,
        .output = args->output->span.data,
        .heads = args->heads,
        .head_size = args->head_size,
        .scale = args->scale,
    };
    cuda_work_add(&work, cuda_span_of_sequences(args->sequences));
    cuda_work_add(&work, cuda_span_of_buffer(args->qkv));
    cuda_work_add(&work, cuda_span_of_buffer(args->output));
    status = cuda_work_begin(&work, err);
    if (status == LIBSCHED_OK) {
        if (args->qkv->datatype == LIBSCHED_BF16)
            code = kernel_attention_bf16(&kernel, cuda_stream(device, CUDA_COMPUTE));
        else
            code = kernel_attention_f32(&kernel, cuda_stream(device, CUDA_COMPUTE));
        status = cuda_check(device, code, "the kernel of attention", err);
    }
    cuda_work_end(&work);
    return status;
}
