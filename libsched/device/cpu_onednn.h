/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little of oneDNN that the CPU device uses, alike for its versions 2 and 3: matrix products
 * whose right side was packed beforehand. Nothing above this file sees a oneDNN type.
 */
#ifndef DEVICE_CPU_ONEDNN_H
#define DEVICE_CPU_ONEDNN_H

#include <libsched/device.h>

/* An engine and a stream. The stream carries out what it is given at once. */
struct onednn;

int onednn_open(struct onednn **out, libsched_error *err);
void onednn_close(struct onednn *dnn);
/* "oneDNN 2.6.3" */
void onednn_version_text(char *text, size_t size);

/* A matrix [inputs, outputs] in the layout that oneDNN multiplies fastest with. */
struct onednn_weights {
    void *memory; /* dnnl_memory_t */
    void *layout; /* its descriptor */
    void *data;   /* the owner's, see cpu_alloc() */
    size_t size;  /* bytes */
};

/* Packs source, which is [outputs, inputs] FP32 in row-major order, as FP32 or BF16. */
int onednn_weights_create(struct onednn *dnn, struct onednn_weights *out, uint32_t datatype,
                          int64_t inputs, int64_t outputs, const float *source,
                          libsched_error *err);
void onednn_weights_destroy(struct onednn_weights *weights);

/* A product of a shape: source [rows, inputs] times weights, [rows, outputs]. */
struct onednn_product_spec {
    int64_t rows, inputs, outputs;
    uint32_t datatype;        /* of source and weights */
    uint32_t output_datatype; /* FP32 or BF16 */
    uint32_t activation;      /* libsched_device_activation */
    bool accumulate;          /* add to the output's content */
    bool bias;                /* add a row of FP32 */
};

/* A compiled product. It works on any weights that were packed for the same sizes. */
struct onednn_product;

int onednn_product_create(struct onednn *dnn, struct onednn_product **out,
                          const struct onednn_product_spec *spec,
                          const struct onednn_weights *weights, libsched_error *err);
void onednn_product_destroy(struct onednn_product *product);
/* Bytes of working memory it needs while it runs. */
size_t onednn_product_scratch_size(const struct onednn_product *product);
/* Runs it. `bias` is NULL exactly where the spec has none. */
int onednn_product_run(struct onednn *dnn, struct onednn_product *product, const void *source,
                       const struct onednn_weights *weights, const float *bias, void *output,
                       void *scratch, libsched_error *err);

#endif
