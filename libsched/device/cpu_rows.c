/* SPDX-License-Identifier: Apache-2.0 */
/* What is done row by row: embedding, layer norm, pooling. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "device/cpu.h"

/* The least length that pooling divides by. */
#define MIN_LENGTH 1e-12f

static int check_norm(const libsched_device_weight *gain, const libsched_device_weight *shift,
                      uint64_t columns, const char *name, libsched_error *err)
{
    int status = cpu_weight_check(gain, name, LIBSCHED_WEIGHT_VECTOR, 1, columns, err);

    if (status == LIBSCHED_OK)
        status = cpu_weight_check(shift, name, LIBSCHED_WEIGHT_VECTOR, 1, columns, err);
    return status;
}

/* output and output_bf16 of an operation, `rows` of them. */
static int check_outputs(const libsched_device_buffer *output,
                         const libsched_device_buffer *output_bf16, const char *name, uint64_t rows,
                         uint64_t columns, libsched_error *err)
{
    int status = cpu_buffer_check(output, name, LIBSCHED_FP32, rows, columns, err);

    if (status == LIBSCHED_OK && output_bf16 != NULL)
        status = cpu_buffer_check(output_bf16, name, LIBSCHED_BF16, rows, columns, err);
    return status;
}

static float *row_of(const libsched_device_buffer *buffer, size_t row)
{
    return (float *)buffer->data + row * buffer->columns;
}

static uint16_t *row_bf16_of(const libsched_device_buffer *buffer, size_t row)
{
    return buffer != NULL ? (uint16_t *)buffer->data + row * buffer->columns : NULL;
}

/* ---------------------------------------------------------------------------------- embedding */

static int check_embed(const libsched_device_embed_args *args, libsched_error *err)
{
    const libsched_device_sequences *s = args->sequences;
    uint64_t columns;
    int status;

    if (args->struct_size < sizeof(*args) || s == NULL || args->words == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "embed: no sequences or no words");
    columns = args->words->columns;
    status = cpu_weight_check(args->words, "embed: words", LIBSCHED_WEIGHT_TABLE, 0, columns, err);
    if (status == LIBSCHED_OK)
        status = cpu_weight_check(args->positions, "embed: positions", LIBSCHED_WEIGHT_TABLE, 0,
                                  columns, err);
    if (status == LIBSCHED_OK && args->types != NULL)
        status =
            cpu_weight_check(args->types, "embed: types", LIBSCHED_WEIGHT_TABLE, 0, columns, err);
    if (status == LIBSCHED_OK)
        status = check_norm(args->gain, args->shift, columns, "embed: gain or shift", err);
    if (status == LIBSCHED_OK)
        status = check_outputs(args->output, args->output_bf16, "embed: output", s->starts[s->n],
                               columns, err);
    if (status == LIBSCHED_OK && s->longest > args->positions->rows)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "embed: a sequence of %u tokens where there are %u positions",
                                  s->longest, (unsigned)args->positions->rows);
    return status;
}

/* Row `row` of a table: itself, or widened into `wide`. */
static const float *table_row(const struct cpu_device *device, const libsched_device_weight *table,
                              size_t row, float *wide)
{
    if (table->datatype == LIBSCHED_FP32)
        return (const float *)table->data + row * table->columns;
    device->kernels->from_bf16((const uint16_t *)table->data + row * table->columns, table->columns,
                               wide);
    return wide;
}

int cpu_embed(libsched_device *base, const libsched_device_embed_args *args, libsched_error *err)
{
    struct cpu_device *device = (struct cpu_device *)base;
    const libsched_device_sequences *s = args->sequences;
    const struct cpu_kernels *kernels = device->kernels;
    int status = check_embed(args, err);
    size_t columns, tokens;
    float *wide;

    if (status != LIBSCHED_OK)
        return status;
    columns = args->words->columns;
    tokens = s->starts[s->n];
    wide = cpu_scratch(device, device->threads * columns * sizeof(float));
    if (wide == NULL)
        return libsched_error_set(err, LIBSCHED_ENODEVMEM, "embed: no working memory");

#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (size_t t = 0; t < tokens; t++) {
        float *row = row_of(args->output, t), *w = wide + (size_t)omp_get_thread_num() * columns;
        memcpy(row, table_row(device, args->words, (size_t)s->ids[t], w), columns * sizeof(*row));
        if (args->types != NULL)
            kernels->add(table_row(device, args->types, 0, w), columns, row);
        kernels->norm(row, table_row(device, args->positions, s->positions[t], w), args->gain->data,
                      args->shift->data, args->epsilon, columns, row,
                      row_bf16_of(args->output_bf16, t));
    }
    return LIBSCHED_OK;
}

/* --------------------------------------------------------------------------------------- norm */

int cpu_norm(libsched_device *base, const libsched_device_norm_args *args, libsched_error *err)
{
    struct cpu_device *device = (struct cpu_device *)base;
    const size_t rows = args->rows;
    size_t columns;
    int status;

    if (args->struct_size < sizeof(*args) || args->input == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "norm: no input");
    columns = args->input->columns;
    status = cpu_buffer_check(args->input, "norm: input", LIBSCHED_FP32, rows, columns, err);
    if (status == LIBSCHED_OK && args->residual != NULL)
        status =
            cpu_buffer_check(args->residual, "norm: residual", LIBSCHED_FP32, rows, columns, err);
    if (status == LIBSCHED_OK)
        status = check_norm(args->gain, args->shift, columns, "norm: gain or shift", err);
    if (status == LIBSCHED_OK)
        status = check_outputs(args->output, args->output_bf16, "norm: output", rows, columns, err);
    if (status != LIBSCHED_OK)
        return status;

#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (size_t r = 0; r < rows; r++)
        device->kernels->norm(row_of(args->input, r),
                              args->residual != NULL ? row_of(args->residual, r) : NULL,
                              args->gain->data, args->shift->data, args->epsilon, columns,
                              row_of(args->output, r), row_bf16_of(args->output_bf16, r));
    return LIBSCHED_OK;
}

/* ------------------------------------------------------------------------------------- pooling */

static void scale_row(float *row, size_t columns, float factor)
{
    for (size_t c = 0; c < columns; c++)
        row[c] *= factor;
}

static void normalize_row(float *row, size_t columns)
{
    double square = 0;
    float length;

    for (size_t c = 0; c < columns; c++)
        square += (double)row[c] * row[c];
    length = (float)sqrt(square);
    /* Written so that a NaN stays one. */
    scale_row(row, columns, 1.0f / (length < MIN_LENGTH ? MIN_LENGTH : length));
}

/* A sequence without tokens gives zeros. */
static void pool_sequence(const struct cpu_device *device, const libsched_device_pool_args *args,
                          size_t sequence)
{
    const size_t first = args->sequences->starts[sequence];
    const size_t end = args->sequences->starts[sequence + 1];
    const size_t columns = args->input->columns;
    float *row = row_of(args->output, sequence);

    if (first == end) {
        memset(row, 0, columns * sizeof(*row));
        return;
    }
    memcpy(row, row_of(args->input, first), columns * sizeof(*row));
    if (args->pooling == LIBSCHED_POOLING_MEAN) {
        for (size_t t = first + 1; t < end; t++)
            device->kernels->add(row_of(args->input, t), columns, row);
        scale_row(row, columns, 1.0f / (float)(end - first));
    } else if (args->pooling == LIBSCHED_POOLING_MAX) {
        for (size_t t = first + 1; t < end; t++)
            device->kernels->max(row_of(args->input, t), columns, row);
    }
    if (args->normalize)
        normalize_row(row, columns);
}

int cpu_pool(libsched_device *base, const libsched_device_pool_args *args, libsched_error *err)
{
    struct cpu_device *device = (struct cpu_device *)base;
    const libsched_device_sequences *s = args->sequences;
    int status;

    if (args->struct_size < sizeof(*args) || s == NULL || args->input == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "pool: no sequences or no input");
    if (args->pooling < LIBSCHED_POOLING_MEAN || args->pooling > LIBSCHED_POOLING_MAX)
        return libsched_error_set(err, LIBSCHED_ENOTSUP, "pool: unknown kind %u", args->pooling);
    status = cpu_buffer_check(args->input, "pool: input", LIBSCHED_FP32, s->starts[s->n],
                              args->input->columns, err);
    if (status == LIBSCHED_OK)
        status = cpu_buffer_check(args->output, "pool: output", LIBSCHED_FP32, s->n,
                                  args->input->columns, err);
    if (status != LIBSCHED_OK)
        return status;

#pragma omp parallel for num_threads(device->threads) schedule(dynamic, 4)
    for (size_t i = 0; i < s->n; i++)
        pool_sequence(device, args, i);
    return LIBSCHED_OK;
}
