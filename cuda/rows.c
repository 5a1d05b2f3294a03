/* SPDX-License-Identifier: Apache-2.0 */
/* What is done row by row: embedding, layer norm, pooling. */
#include "internal.h"

static int check_norm(const libsched_device_weight *gain, const libsched_device_weight *shift,
                      uint64_t columns, const char *name, libsched_error *err)
{
    int status = cuda_weight_check(gain, name, LIBSCHED_WEIGHT_VECTOR, 1, columns, err);

    if (status == LIBSCHED_OK)
        status = cuda_weight_check(shift, name, LIBSCHED_WEIGHT_VECTOR, 1, columns, err);
    return status;
}

/* output and output_bf16 of an operation, `rows` of them. */
static int check_outputs(const libsched_device_buffer *output,
                         const libsched_device_buffer *output_bf16, const char *name, uint64_t rows,
                         uint64_t columns, libsched_error *err)
{
    int status = cuda_buffer_check(output, name, LIBSCHED_FP32, rows, columns, err);

    if (status == LIBSCHED_OK && output_bf16 != NULL)
        status = cuda_buffer_check(output_bf16, name, LIBSCHED_BF16, rows, columns, err);
    return status;
}

static struct kernel_norm_args norm_args(const libsched_device_weight *gain,
                                         const libsched_device_weight *shift, float epsilon,
                                         const libsched_device_buffer *output,
                                         const libsched_device_buffer *output_bf16)
{
    return (struct kernel_norm_args){
        .gain = gain->span.data,
        .shift = shift->span.data,
        .epsilon = epsilon,
        .columns = (uint32_t)output->columns,
        .output = output->span.data,
        .output_bf16 = output_bf16 != NULL ? output_bf16->span.data : NULL,
    };
}

/* ----------------------------------------------------------------------------------- embedding */

static int check_embed(const libsched_device_embed_args *args, libsched_error *err)
{
    const libsched_device_sequences *s = args->sequences;
    uint64_t columns;
    int status;

    if (args->struct_size < sizeof(*args) || s == NULL || args->words == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "embed: no sequences or no words");
    columns = args->words->columns;
    status = cuda_weight_check(args->words, "embed: words", LIBSCHED_WEIGHT_TABLE, 0, columns, err);
    if (status == LIBSCHED_OK)
        status = cuda_weight_check(args->positions, "embed: positions", LIBSCHED_WEIGHT_TABLE, 0,
                                   columns, err);
    if (status == LIBSCHED_OK && args->types != NULL)
        status =
            cuda_weight_check(args->types, "embed: types", LIBSCHED_WEIGHT_TABLE, 0, columns, err);
    if (status == LIBSCHED_OK)
        status = check_norm(args->gain, args->shift, columns, "embed: gain or shift", err);
    if (status == LIBSCHED_OK)
        status = check_outputs(args->output, args->output_bf16, "embed: output", s->tokens, columns,
                               err);
    if (status == LIBSCHED_OK && s->longest > args->positions->rows)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "embed: a sequence of %u tokens where there are %u positions",
                                  s->longest, (unsigned)args->positions->rows);
    return status;
}

static struct kernel_table table_of(const libsched_device_weight *weight)
{
    if (weight == NULL)
        return (struct kernel_table){NULL, false};
    return (struct kernel_table){weight->span.data, weight->datatype == LIBSCHED_BF16};
}

int cuda_embed(libsched_device *base, const libsched_device_embed_args *args, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    struct cuda_work work = {.device = device, .stream = CUDA_COMPUTE};
    int status = cuda_enter_operation(device, err);

    if (status == LIBSCHED_OK)
        status = check_embed(args, err);
    if (status != LIBSCHED_OK || args->sequences->tokens == 0)
        return status;
    cuda_recording_positions(device, args->positions->rows);
    const struct kernel_embed_args kernel = {
        .sequences = cuda_sequences_view(device, args->sequences),
        .words = table_of(args->words),
        .positions = table_of(args->positions),
        .types = table_of(args->types),
        .norm = norm_args(args->gain, args->shift, args->epsilon, args->output, args->output_bf16),
    };
    cuda_work_add(&work, cuda_span_of_sequences(args->sequences));
    cuda_work_add(&work, cuda_span_of_weight(args->words));
    cuda_work_add(&work, cuda_span_of_weight(args->positions));
    cuda_work_add(&work, args->types != NULL ? cuda_span_of_weight(args->types) : NULL);
    cuda_work_add(&work, cuda_span_of_weight(args->gain));
    cuda_work_add(&work, cuda_span_of_weight(args->shift));
    cuda_work_add(&work, cuda_span_of_buffer(args->output));
    cuda_work_add(&work, args->output_bf16 != NULL ? cuda_span_of_buffer(args->output_bf16) : NULL);
    status = cuda_work_begin(&work, err);
    if (status == LIBSCHED_OK)
        status = cuda_check(device, kernel_embed(&kernel, cuda_stream(device, CUDA_COMPUTE)),
                            "the kernel of embed", err);
    cuda_work_end(&work);
    return status;
}

/* ---------------------------------------------------------------------------------------- norm */

static int check_norm_args(const libsched_device_norm_args *args, libsched_error *err)
{
    uint64_t columns;
    int status;

    if (args->struct_size < sizeof(*args) || args->input == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "norm: no input");
    columns = args->input->columns;
    status = cuda_buffer_check(args->input, "norm: input", LIBSCHED_FP32, args->rows, columns, err);
    if (status == LIBSCHED_OK && args->residual != NULL)
        status = cuda_buffer_check(args->residual, "norm: residual", LIBSCHED_FP32, args->rows,
                                   columns, err);
    if (status == LIBSCHED_OK)
        status = check_norm(args->gain, args->shift, columns, "norm: gain or shift", err);
    if (status == LIBSCHED_OK)
        status = check_outputs(args->output, args->output_bf16, "norm: output", args->rows, columns,
                               err);
    return status;
}

int cuda_norm(libsched_device *base, const libsched_device_norm_args *args, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    struct cuda_work work = {.device = device, .stream = CUDA_COMPUTE};
    int status = cuda_enter_operation(device, err);

    if (status == LIBSCHED_OK)
        status = check_norm_args(args, err);
    if (status != LIBSCHED_OK || args->rows == 0)
        return status;
    const struct kernel_residual_args kernel = {
        .input = args->input->span.data,
        .residual = args->residual != NULL ? args->residual->span.data : NULL,
        .rows = cuda_rows(device, args->rows),
        .norm = norm_args(args->gain, args->shift, args->epsilon, args->output, args->output_bf16),
    };
    cuda_work_add(&work, cuda_span_of_buffer(args->input));
    cuda_work_add(&work, args->residual != NULL ? cuda_span_of_buffer(args->residual) : NULL);
    cuda_work_add(&work, cuda_span_of_weight(args->gain));
    cuda_work_add(&work, cuda_span_of_weight(args->shift));
    cuda_work_add(&work, cuda_span_of_buffer(args->output));
    cuda_work_add(&work, args->output_bf16 != NULL ? cuda_span_of_buffer(args->output_bf16) : NULL);
    status = cuda_work_begin(&work, err);
    if (status == LIBSCHED_OK)
        status = cuda_check(device, kernel_residual(&kernel, cuda_stream(device, CUDA_COMPUTE)),
                            "the kernel of norm", err);
    cuda_work_end(&work);
    return status;
}

/* ------------------------------------------------------------------------------------- pooling */

static int check_pool(const libsched_device_pool_args *args, libsched_error *err)
{
    const libsched_device_sequences *s = args->sequences;
    int status;

    if (args->struct_size < sizeof(*args) || s == NULL || args->input == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "pool: no sequences or no input");
    if (args->pooling < LIBSCHED_POOLING_MEAN || args->pooling > LIBSCHED_POOLING_MAX)
        return libsched_error_set(err, LIBSCHED_ENOTSUP, "pool: unknown kind %u", args->pooling);
    status = cuda_buffer_check(args->input, "pool: input", LIBSCHED_FP32, s->tokens,
                               args->input->columns, err);
    if (status == LIBSCHED_OK)
        status = cuda_buffer_check(args->output, "pool: output", LIBSCHED_FP32, s->n,
                                   args->input->columns, err);
    return status;
}

int cuda_pool(libsched_device *base, const libsched_device_pool_args *args, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    struct cuda_work work = {.device = device, .stream = CUDA_COMPUTE};
    int status = cuda_enter_operation(device, err);

    if (status == LIBSCHED_OK)
        status = check_pool(args, err);
    if (status != LIBSCHED_OK || args->sequences->n == 0)
        return status;
    /* There has to be room for a recording's empty sequences. */
    if (cuda_recorded_sequences(device) != NULL &&
        args->sequences->padded.n > cuda_rung(args->output->rows))
        cuda_recording_spoil(device);
    const struct kernel_pool_args kernel = {
        .sequences = cuda_sequences_view(device, args->sequences),
        .input = args->input->span.data,
        .output = args->output->span.data,
        .columns = (uint32_t)args->input->columns,
        .pooling = (enum kernel_pooling)args->pooling,
        .normalize = args->normalize,
    };
    cuda_work_add(&work, cuda_span_of_sequences(args->sequences));
    cuda_work_add(&work, cuda_span_of_buffer(args->input));
    cuda_work_add(&work, cuda_span_of_buffer(args->output));
    status = cuda_work_begin(&work, err);
    if (status == LIBSCHED_OK)
        status = cuda_check(device, kernel_pool(&kernel, cuda_stream(device, CUDA_COMPUTE)),
                            "the kernel of pool", err);
    cuda_work_end(&work);
    return status;
}
