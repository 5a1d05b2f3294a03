/* SPDX-License-Identifier: Apache-2.0 */
/* Weights: plain rows, converted while they are copied. A VECTOR is there twice, since a product's
 * epilogue takes its bias in the datatype of the output. */
#include <inttypes.h>
#include <stdlib.h>

#include "communicator.h"

/* What kernels and epilogues load whole. */
#define ALIGN UINT64_C(256)

static int check_args(const libsched_device_weight_args *args, libsched_error *err)
{
    const bool vector = args->kind == LIBSCHED_WEIGHT_VECTOR;

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
    if (args->rows == 0 || args->columns == 0 || args->rows > CUDA_MAX_DIMENSION ||
        args->columns > CUDA_MAX_DIMENSION || (vector && args->rows != 1))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a weight of %" PRIu64 " by %" PRIu64 " is not possible",
                                  args->rows, args->columns);
    return LIBSCHED_OK;
}

struct conversion {
    const libsched_device_weight_args *args;
    uint32_t datatype;
};

static void fill_converted(void *to, uint64_t offset, uint64_t size, const void *context)
{
    const struct conversion *c = context;
    const uint64_t element = libsched_datatype_size(c->datatype);
    const unsigned char *source = c->args->data;

    cuda_convert(source + offset / element * libsched_datatype_size(c->args->source_datatype),
                 c->args->source_datatype, size / element, to, c->datatype);
}

static int upload(struct cuda_device *device, libsched_device_weight *weight,
                  const libsched_device_weight_args *args, uint32_t datatype, uint64_t offset,
                  libsched_error *err)
{
    const struct conversion conversion = {args, datatype};

    return cuda_stage_upload(device, &weight->span, offset,
                             args->rows * args->columns * libsched_datatype_size(datatype),
                             fill_converted, &conversion, err);
}

/* A weight without its numbers. */
static int make(struct cuda_device *device, libsched_device_weight **out,
                const libsched_device_weight_args *args, libsched_error *err)
{
    const bool vector = args->kind == LIBSCHED_WEIGHT_VECTOR;
    libsched_device_weight *weight;
    uint64_t size;
    int status = cuda_enter(device, err);

    if (status == LIBSCHED_OK)
        status = check_args(args, err);
    if (status != LIBSCHED_OK)
        return status;
    weight = calloc(1, sizeof(*weight));
    if (weight == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a weight");
    weight->kind = args->kind;
    weight->datatype = vector ? LIBSCHED_FP32 : args->datatype;
    weight->rows = args->rows;
    weight->columns = args->columns;
    size = args->rows * args->columns * libsched_datatype_size(weight->datatype);
    weight->bf16_offset = (size + ALIGN - 1) / ALIGN * ALIGN;
    status = cuda_allocate(device, &weight->span, vector ? weight->bf16_offset + size / 2 : size,
                           "a weight", err);
    if (status == LIBSCHED_OK)
        *out = weight;
    else
        free(weight);
    return status;
}

static int fill(struct cuda_device *device, libsched_device_weight *weight,
                const libsched_device_weight_args *args, libsched_error *err)
{
    int status = upload(device, weight, args, weight->datatype, 0, err);

    if (status == LIBSCHED_OK && weight->kind == LIBSCHED_WEIGHT_VECTOR)
        status = upload(device, weight, args, LIBSCHED_BF16, weight->bf16_offset, err);
    return status;
}

/* Gives it out, or takes it back. */
static int finish(libsched_device *base, libsched_device_weight **out,
                  libsched_device_weight *weight, int status)
{
    if (status == LIBSCHED_OK)
        *out = weight;
    else
        cuda_weight_destroy(base, weight);
    return status;
}

int cuda_weight_create(libsched_device *base, libsched_device_weight **out,
                       const libsched_device_weight_args *args, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    libsched_device_weight *weight = NULL;
    int status = make(device, &weight, args, err);

    if (status == LIBSCHED_OK)
        status = fill(device, weight, args, err);
    return finish(base, out, weight, status);
}

int cuda_weight_share(libsched_device *base, libsched_device_communicator *c, uint32_t root,
                      libsched_device_weight **out, const libsched_device_weight_args *args,
                      libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    libsched_device_weight *weight = NULL;
    int status = make(device, &weight, args, err);

    if (status == LIBSCHED_OK && c->meeting.rank == root)
        status = fill(device, weight, args, err);
    if (status == LIBSCHED_OK)
        status = cuda_communicator_spread(c, root, &weight->span, err);
    return finish(base, out, weight, status);
}

void cuda_weight_destroy(libsched_device *device, libsched_device_weight *weight)
{
    if (weight == NULL)
        return;
    cuda_release(cuda_device_of(device), &weight->span);
    free(weight);
}

int cuda_weight_check(const libsched_device_weight *weight, const char *name, uint32_t kind,
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
