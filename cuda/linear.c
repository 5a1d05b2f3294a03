/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linear layers. cuBLASLt adds the bias and applies the activation on its way where its maths is
 * the one that was asked for: its GELU is the approximation by tanh, so the exact one is a kernel
 * of our own behind the product. Where it has no algorithm that does it all, or none at all, our
 * own kernels take over.
 */
#include "internal.h"

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
    status = cuda_buffer_check(args->input, "linear: input", weight->datatype, args->rows,
                               weight->columns, err);
    if (status == LIBSCHED_OK)
        status = cuda_buffer_check(
            args->output, "linear: output",
            args->accumulate || args->output == NULL ? LIBSCHED_FP32 : args->output->datatype,
            args->rows, weight->rows, err);
    if (status == LIBSCHED_OK && args->bias != NULL)
        status = cuda_weight_check(args->bias, "linear: bias", LIBSCHED_WEIGHT_VECTOR, 1,
                                   weight->rows, err);
    if (status == LIBSCHED_OK && args->input == args->output)
        return libsched_error_set(err, LIBSCHED_EINVAL, "linear: the output is its input");
    return status;
}

static int finish(struct cuda_device *device, const libsched_device_linear_args *args,
                  libsched_error *err)
{
    const struct kernel_finish_args kernel = {
        .values = args->output->span.data,
        .bias = args->bias != NULL ? args->bias->span.data : NULL,
        .rows = cuda_rows(device, args->rows),
        .columns = args->weight->rows,
        .bf16 = args->output->datatype == LIBSCHED_BF16,
        .activation = (enum kernel_activation)args->activation,
    };

    return cuda_check(device, kernel_finish(&kernel, cuda_stream(device, CUDA_COMPUTE)),
                      "the kernel behind a product", err);
}

static int own_product(struct cuda_device *device, const libsched_device_linear_args *args,
                       libsched_error *err)
{
    const struct kernel_product_args kernel = {
        .input = args->input->span.data,
        .weight = args->weight->span.data,
        .bias = args->bias != NULL ? args->bias->span.data : NULL,
        .output = args->output->span.data,
        .rows = cuda_rows(device, args->rows),
        .inputs = args->weight->columns,
        .outputs = args->weight->rows,
        .bf16 = args->weight->datatype == LIBSCHED_BF16,
        .output_bf16 = args->output->datatype == LIBSCHED_BF16,
        .accumulate = args->accumulate,
        .activation = (enum kernel_activation)args->activation,
    };

    return cuda_check(device, kernel_product(&kernel, cuda_stream(device, CUDA_COMPUTE)),
                      "the kernel of a product", err);
}

/* A product that cuBLASLt finishes by itself as far as `fused` says. */
static int try_product(struct cuda_device *device, const libsched_device_linear_args *args,
                       bool fused, bool *done, libsched_error *err)
{
    const libsched_device_weight *bias = fused ? args->bias : NULL;
    const struct cuda_product product = {
        .rows = cuda_rung(cuda_rows(device, args->rows)),
        .inputs = args->weight->columns,
        .outputs = args->weight->rows,
        .datatype = args->weight->datatype,
        .output_datatype = args->output->datatype,
        .epilogue = !fused                                              ? CUDA_EPILOGUE_NONE
                    : args->activation == LIBSCHED_ACTIVATION_RELU      ? CUDA_EPILOGUE_RELU
                    : args->activation == LIBSCHED_ACTIVATION_GELU_TANH ? CUDA_EPILOGUE_GELU_TANH
                                                                        : CUDA_EPILOGUE_NONE,
        .bias = bias != NULL,
        .accumulate = args->accumulate,
    };
    /* An epilogue takes it in the datatype of the output. */
    const uint64_t offset =
        bias != NULL && args->output->datatype == LIBSCHED_BF16 ? bias->bf16_offset : 0;

    return cuda_product_run(device, &product, args->input->span.data, args->weight->span.data,
                            bias != NULL ? (const char *)bias->span.data + offset : NULL,
                            args->output->span.data, done, err);
}

static int compute(struct cuda_device *device, const libsched_device_linear_args *args,
                   libsched_error *err)
{
    const bool exact_gelu = args->activation == LIBSCHED_ACTIVATION_GELU;
    const bool plain = args->bias == NULL && args->activation == LIBSCHED_ACTIVATION_NONE;
    bool done = false;
    int status = LIBSCHED_OK;

    if (!exact_gelu && !plain) {
        status = try_product(device, args, true, &done, err);
        if (status != LIBSCHED_OK || done)
            return status;
    }
    status = try_product(device, args, false, &done, err);
    if (status != LIBSCHED_OK)
        return status;
    if (!done)
        return own_product(device, args, err);
    return plain ? LIBSCHED_OK : finish(device, args, err);
}

int cuda_linear(libsched_device *base, const libsched_device_linear_args *args, libsched_error *err)
{
    struct cuda_device *device = cuda_device_of(base);
    struct cuda_work work = {.device = device, .stream = CUDA_COMPUTE};
    int status = cuda_enter_operation(device, err);

    if (status == LIBSCHED_OK)
        status = check(args, err);
    if (status != LIBSCHED_OK || args->rows == 0)
        return status;
    cuda_work_add(&work, cuda_span_of_buffer(args->input));
    cuda_work_add(&work, cuda_span_of_weight(args->weight));
    cuda_work_add(&work, args->bias != NULL ? cuda_span_of_weight(args->bias) : NULL);
    cuda_work_add(&work, cuda_span_of_buffer(args->output));
    cuda_work_add(&work, &device->workspace);
    status = cuda_work_begin(&work, err);
    if (status == LIBSCHED_OK)
        status = compute(device, args, err);
    /* Also what failed may have been given to the stream in part. */
    cuda_work_end(&work);
    return status;
}
