/* SPDX-License-Identifier: Apache-2.0 */
/* Weights: widened to FP32 from what a checkpoint holds, then packed or kept. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu.h"
#include "device/cpu_memory.h"
#include "device/half.h"

#define MAX_DIMENSION ((uint64_t)1 << 30)

static int check_args(const libsched_device_weight_args *args, libsched_error *err)
{
    bool vector = args->kind == LIBSCHED_WEIGHT_VECTOR;

    if (args->struct_size < sizeof(*args) || args->kind < LIBSCHED_WEIGHT_LINEAR ||
        args->kind > LIBSCHED_WEIGHT_VECTOR)
        return libsched_error_set(err, LIBSCHED_EINVAL, "a weight of unknown kind %" PRIu32,
                                  args->kind);
    if (args->source_datatype != LIBSCHED_FP32 && args->source_datatype != LIBSCHED_FP16 &&
        args->source_datatype != LIBSCHED_BF16)
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "weights are read from FP32, FP16 or BF16, not from %s",
                                  libsched_datatype_name(args->source_datatype) != NULL
                                      ? libsched_datatype_name(args->source_datatype)
                                      : "an unknown datatype");
    if (!vector && args->datatype != LIBSCHED_FP32 && args->datatype != LIBSCHED_BF16)
        return libsched_error_set(err, LIBSCHED_EINVAL, "weights are kept in FP32 or BF16");
    if (args->rows == 0 || args->columns == 0 || args->rows > MAX_DIMENSION ||
        args->columns > MAX_DIMENSION || (vector && args->rows != 1))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a weight of %" PRIu64 " by %" PRIu64 " is not possible",
                                  args->rows, args->columns);
    if (args->kind == LIBSCHED_WEIGHT_LINEAR && args->datatype == LIBSCHED_BF16 && !cpu_has_bf16())
        return libsched_error_set(err, LIBSCHED_ENOTSUP,
                                  "this CPU does not multiply bf16 (AVX512_BF16 is missing): use "
                                  "precision \"f32\"");
    return LIBSCHED_OK;
}

/* The source as FP32: itself where it is that and aligned, else a copy that the caller frees. */
static const float *widen(const libsched_device_weight_args *args, float **copy)
{
    const size_t n = args->rows * args->columns;

    *copy = NULL;
    if (args->source_datatype == LIBSCHED_FP32 && (uintptr_t)args->data % sizeof(float) == 0)
        return args->data;
    *copy = cpu_alloc(n * sizeof(float));
    if (*copy == NULL)
        return NULL;
    if (args->source_datatype == LIBSCHED_FP32)
        memcpy(*copy, args->data, n * sizeof(float));
    else if (args->source_datatype == LIBSCHED_FP16)
        half_widen_fp16(args->data, n, *copy);
    else
        half_widen_bf16(args->data, n, *copy);
    return *copy;
}

static int no_memory(libsched_error *err, size_t size)
{
    return libsched_error_set(err, LIBSCHED_ENODEVMEM, "no memory for a weight of %zu bytes", size);
}

/* A TABLE or VECTOR: plain rows. */
static int keep(struct cpu_device *device, libsched_device_weight *weight, const float *source,
                libsched_error *err)
{
    const size_t n = weight->rows * weight->columns;

    weight->size = n * libsched_datatype_size(weight->datatype);
    weight->data = cpu_alloc(weight->size);
    if (weight->data == NULL)
        return no_memory(err, weight->size);
    if (weight->datatype == LIBSCHED_BF16)
        device->kernels->to_bf16(source, n, weight->data);
    else
        memcpy(weight->data, source, weight->size);
    return LIBSCHED_OK;
}

int cpu_weight_create(libsched_device *base, libsched_device_weight **out,
                      const libsched_device_weight_args *args, libsched_error *err)
{
    struct cpu_device *device = (struct cpu_device *)base;
    libsched_device_weight *weight;
    const float *source;
    float *copy;
    int status = check_args(args, err);

    if (status != LIBSCHED_OK)
        return status;
    weight = calloc(1, sizeof(*weight));
    source = weight != NULL ? widen(args, &copy) : NULL;
    if (source == NULL) {
        free(weight);
        return no_memory(err, args->rows * args->columns * sizeof(float));
    }
    weight->kind = args->kind;
    weight->datatype = args->kind == LIBSCHED_WEIGHT_VECTOR ? LIBSCHED_FP32 : args->datatype;
    weight->rows = args->rows;
    weight->columns = args->columns;
    if (args->kind == LIBSCHED_WEIGHT_LINEAR)
        status = onednn_weights_create(device->dnn, &weight->packed, weight->datatype,
                                       (int64_t)args->columns, (int64_t)args->rows, source, err);
    else
        status = keep(device, weight, source, err);
    cpu_free(copy, args->rows * args->columns * sizeof(float));
    if (status != LIBSCHED_OK) {
        cpu_weight_destroy(base, weight);
        return status;
    }
    *out = weight;
    return LIBSCHED_OK;
}

void cpu_weight_destroy(libsched_device *device, libsched_device_weight *weight)
{
    (void)device;
    if (weight == NULL)
        return;
    onednn_weights_destroy(&weight->packed);
    cpu_free(weight->data, weight->size);
    free(weight);
}

int cpu_weight_check(const libsched_device_weight *weight, const char *name, uint32_t kind,
                     uint64_t rows, uint64_t columns, libsched_error *err)
{
    if (weight == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s: no weight", name);
    if (weight->kind != kind || weight->columns != columns || (rows != 0 && weight->rows != rows))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s: a weight of kind %" PRIu32 ", %" PRIu64 " by %" PRIu64
                                  ", does not fit (%" PRIu64 " columns are needed)",
                                  name, weight->kind, weight->rows, weight->columns, columns);
    return LIBSCHED_OK;
}
