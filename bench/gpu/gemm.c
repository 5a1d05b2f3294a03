/* SPDX-License-Identifier: Apache-2.0 */
/* Products through the plugin, beside bare ones. */
#include "gpu.h"

struct product {
    struct gpu_bench *b;
    libsched_device_linear_args args;
};

static void multiply(void *context)
{
    struct product *p = context;
    libsched_error err;

    gpu_check(p->b->driver->linear(p->b->device, &p->args, &err), &err, "a product");
}

static void measure(struct gpu_bench *b, uint64_t size)
{
    const uint32_t datatype = gpu_datatype(b);
    libsched_device_weight *weight = gpu_weight(b, LIBSCHED_WEIGHT_LINEAR, size, size, 0.05f);
    libsched_device_buffer *input = gpu_buffer(b, datatype, size, size);
    libsched_device_buffer *output = gpu_buffer(b, datatype, size, size);
    struct product product = {.b = b,
                              .args = {
                                  .struct_size = sizeof(product.args),
                                  .rows = size,
                                  .input = input,
                                  .weight = weight,
                                  .output = output,
                              }};
    const double flops = 2.0 * (double)size * (double)size * (double)size;
    const double seconds = gpu_time(b, b->seconds, multiply, &product);
    const double bare = b->bare != NULL ? gpu_bare_product(b->bare, size, size, size) : 0;

    report_add(b->report, "gemm_gflop_per_s",
               json_pack("{s:i, s:s}", "size", (int)size, "precision", b->precision),
               flops / seconds * 1e-9, "GFLOP/s", bare > 0 ? flops / bare * 1e-9 : 0);
    b->driver->weight_destroy(b->device, weight);
    b->driver->buffer_destroy(b->device, input);
    b->driver->buffer_destroy(b->device, output);
}

void gpu_gemm(struct gpu_bench *b)
{
    measure(b, b->size / 4);
    measure(b, b->size);
}
