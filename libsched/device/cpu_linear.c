/* SPDX-License-Identifier: Apache-2.0 */
/* Linear layers, by oneDNN. */
#include <omp.h>

#include "device/cpu.h"
#include "device/cpu_products.h"

static int check(const libsched_device_linear_args *args, libsched_error *err)
{
    const libsched_device_weight *weight = args->weight;
    int status;

    if (args->struct_size < sizeof(*args) || weight == NULL ||
        weight->kind != LIBSCHED_WEIGHT_LINEAR)
        return libsched_error_set(err, LIBSCHED_EINVAL, "linear: no weight of its kind");
    if (args->activation > LIBSCHED_ACTIVATION_RELU)
        return libsched_error_set(err, LIBSCHED_ENOTSUP, "linear: unknown activation %u",
                                  args->activation);
    if (args->accumulate && args->activation != LIBSCHED_ACTIVATION_NONE)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "linear: an activation and accumulate exclude each other");
    status = cpu_buffer_check(args->input, "linear: input", weight->datatype, args->rows,
                              weight->columns, err);
    if (status == LIBSCHED_OK)
        status = cpu_buffer_check(args->output, "linear: output",
                                  args->accumulate || args->output == NULL ? LIBSCHED_FP32
                                                                           : args->output->datatype,
                                  args->rows, weight->rows, err);
    if (status == LIBSCHED_OK && args->bias != NULL)
        status = cpu_weight_check(args->bias, "linear: bias", LIBSCHED_WEIGHT_VECTOR, 1,
                                  weight->rows, err);
    if (status == LIBSCHED_OK && args->input == args->output)
        return libsched_error_set(err, LIBSCHED_EINVAL, "linear: the output is its input");
    return status;
}

/* Rows from `first`, at most CPU_LADDER_TOP. Rounding up computes rows behind them, which lie in
 * the same buffers and mean nothing. */
static int run_piece(struct cpu_device *device, const libsched_device_linear_args *args,
                     uint64_t first, uint64_t rows, libsched_error *err)
{
    const libsched_device_weight *weight = args->weight;
    const struct onednn_product_spec spec = {
        .rows = cpu_ladder_rung((int64_t)rows),
        .inputs = (int64_t)weight->columns,
        .outputs = (int64_t)weight->rows,
        .datatype = weight->datatype,
        .output_datatype = args->output->datatype,
        .activation = args->activation,
        .accumulate = args->accumulate,
        .bias = args->bias != NULL,
    };
    const size_t input_row = weight->columns * libsched_datatype_size(args->input->datatype);
    const size_t output_row = weight->rows * libsched_datatype_size(args->output->datatype);
    struct onednn_product *product;
    void *scratch;
    int status =
        cpu_products_get(device->products, device->dnn, &spec, &weight->packed, &product, err);

    if (status != LIBSCHED_OK)
        return status;
    scratch = cpu_scratch(device, onednn_product_scratch_size(product));
    if (scratch == NULL && onednn_product_scratch_size(product) > 0)
        return libsched_error_set(err, LIBSCHED_ENODEVMEM, "linear: no working memory");
    return onednn_product_run(device->dnn, product,
                              (const char *)args->input->data + first * input_row, &weight->packed,
                              args->bias != NULL ? args->bias->data : NULL,
                              (char *)args->output->data + first * output_row, scratch, err);
}

int cpu_linear(libsched_device *base, const libsched_device_linear_args *args, libsched_error *err)
{
    struct cpu_device *device = (struct cpu_device *)base;
    int status = check(args, err);

    /* oneDNN takes as many threads as OpenMP would give the caller. */
    omp_set_num_threads((int)device->threads);
    for (uint64_t first = 0; status == LIBSCHED_OK && first < args->rows; first += CPU_LADDER_TOP) {
        uint64_t left = args->rows - first;
        status = run_piece(device, args, first, left < CPU_LADDER_TOP ? left : CPU_LADDER_TOP, err);
    }
    return status;
}
