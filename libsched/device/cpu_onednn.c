/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oneDNN's C API. Between versions 2 and 3 memory descriptors became handles and a primitive's
 * description lost a step; both are evened out in the first part of this file.
 *
 * oneDNN picks the packed layout when a product is described with format_tag::any. The number of
 * rows may enter into that choice, so it is made once for each matrix, with a number of rows in
 * the middle of those that come, and every product is then described with the layout chosen.
 */
#include "device/cpu_onednn.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu_memory.h"

#define PACKING_ROWS 256

#if DNNL_VERSION_MAJOR < 3

typedef dnnl_memory_desc_t *layout_t;
typedef const dnnl_memory_desc_t *const_layout_t;

static dnnl_status_t layout_create(layout_t *out, int rank, const dnnl_dims_t shape,
                                   dnnl_data_type_t type, dnnl_format_tag_t tag)
{
    *out = malloc(sizeof(**out));
    if (*out == NULL)
        return dnnl_out_of_memory;
    return dnnl_memory_desc_init_by_tag(*out, rank, shape, type, tag);
}

static dnnl_status_t layout_clone(layout_t *out, const_layout_t source)
{
    *out = malloc(sizeof(**out));
    if (*out == NULL)
        return dnnl_out_of_memory;
    **out = *source;
    return dnnl_success;
}

static void layout_destroy(layout_t layout)
{
    free(layout);
}

static dnnl_status_t describe_product(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                                      const_layout_t source, const_layout_t weights,
                                      const_layout_t bias, const_layout_t output,
                                      const_dnnl_primitive_attr_t attributes)
{
    dnnl_matmul_desc_t description;
    dnnl_status_t status = dnnl_matmul_desc_init(&description, source, weights, bias, output);

    if (status == dnnl_success)
        status = dnnl_primitive_desc_create(out, &description, attributes, engine, NULL);
    return status;
}

static dnnl_status_t append_eltwise(dnnl_post_ops_t operations, dnnl_alg_kind_t kind)
{
    return dnnl_post_ops_append_eltwise(operations, 1.0f, kind, 0.0f, 0.0f);
}

static dnnl_status_t append_sum(dnnl_post_ops_t operations)
{
    return dnnl_post_ops_append_sum(operations, 1.0f);
}

#else

typedef dnnl_memory_desc_t layout_t;
typedef const_dnnl_memory_desc_t const_layout_t;

static dnnl_status_t layout_create(layout_t *out, int rank, const dnnl_dims_t shape,
                                   dnnl_data_type_t type, dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(out, rank, shape, type, tag);
}

static dnnl_status_t layout_clone(layout_t *out, const_layout_t source)
{
    return dnnl_memory_desc_clone(out, source);
}

static void layout_destroy(layout_t layout)
{
    if (layout != NULL)
        dnnl_memory_desc_destroy(layout);
}

static dnnl_status_t describe_product(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                                      const_layout_t source, const_layout_t weights,
                                      const_layout_t bias, const_layout_t output,
                                      const_dnnl_primitive_attr_t attributes)
{
    return dnnl_matmul_primitive_desc_create(out, engine, source, weights, bias, output,
                                             attributes);
}

static dnnl_status_t append_eltwise(dnnl_post_ops_t operations, dnnl_alg_kind_t kind)
{
    return dnnl_post_ops_append_eltwise(operations, kind, 0.0f, 0.0f);
}

static dnnl_status_t append_sum(dnnl_post_ops_t operations)
{
    return dnnl_post_ops_append_sum(operations, 1.0f, 0, dnnl_data_type_undef);
}

#endif

struct onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

struct onednn_product {
    dnnl_primitive_t primitive;
    dnnl_memory_t source, bias, output, scratch;
    size_t scratch_size;
};

/* oneDNN's status as ours, with what was being done. */
static int failed(dnnl_status_t status, const char *what, libsched_error *err)
{
    if (status == dnnl_out_of_memory)
        return libsched_error_set(err, LIBSCHED_ENODEVMEM, "oneDNN: no memory for %s", what);
    if (status == dnnl_unimplemented)
        return libsched_error_set(err, LIBSCHED_ENOTSUP, "oneDNN cannot do this here: %s", what);
    return libsched_error_set(err, LIBSCHED_EENGINE, "oneDNN: %s failed with status %d", what,
                              (int)status);
}

static dnnl_data_type_t type_of(uint32_t datatype)
{
    return datatype == LIBSCHED_BF16 ? dnnl_bf16 : dnnl_f32;
}

int onednn_open(struct onednn **out, libsched_error *err)
{
    struct onednn *dnn = calloc(1, sizeof(*dnn));
    dnnl_status_t status;

    if (dnn == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a oneDNN engine");
    status = dnnl_engine_create(&dnn->engine, dnnl_cpu, 0);
    if (status == dnnl_success)
        status = dnnl_stream_create(&dnn->stream, dnn->engine, dnnl_stream_default_flags);
    if (status != dnnl_success) {
        onednn_close(dnn);
        return failed(status, "an engine for the CPU", err);
    }
    *out = dnn;
    return LIBSCHED_OK;
}

void onednn_close(struct onednn *dnn)
{
    if (dnn == NULL)
        return;
    if (dnn->stream != NULL)
        dnnl_stream_destroy(dnn->stream);
    if (dnn->engine != NULL)
        dnnl_engine_destroy(dnn->engine);
    free(dnn);
}

void onednn_version_text(char *text, size_t size)
{
    const dnnl_version_t *version = dnnl_version();

    snprintf(text, size, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
}

/* ---------------------------------------------------------------------------------- attributes */

static dnnl_status_t set_post_operations(dnnl_primitive_attr_t attributes,
                                         const struct onednn_product_spec *spec)
{
    static const dnnl_alg_kind_t kinds[] = {
        [LIBSCHED_ACTIVATION_GELU] = dnnl_eltwise_gelu_erf,
        [LIBSCHED_ACTIVATION_GELU_TANH] = dnnl_eltwise_gelu_tanh,
        [LIBSCHED_ACTIVATION_RELU] = dnnl_eltwise_relu,
    };
    dnnl_post_ops_t operations;
    dnnl_status_t status = dnnl_post_ops_create(&operations);

    if (status != dnnl_success)
        return status;
    if (spec->accumulate)
        status = append_sum(operations);
    if (status == dnnl_success && spec->activation != LIBSCHED_ACTIVATION_NONE)
        status = append_eltwise(operations, kinds[spec->activation]);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_post_ops(attributes, operations);
    dnnl_post_ops_destroy(operations);
    return status;
}

static dnnl_status_t create_attributes(dnnl_primitive_attr_t *out,
                                       const struct onednn_product_spec *spec)
{
    dnnl_status_t status = dnnl_primitive_attr_create(out);

    if (status != dnnl_success)
        return status;
    status = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (status == dnnl_success)
        status = set_post_operations(*out, spec);
    if (status != dnnl_success)
        dnnl_primitive_attr_destroy(*out);
    return status;
}

/* ----------------------------------------------------------------------------------- a product */

/* Everything needed to describe a product; freed as a whole. */
struct description {
    layout_t source, weights, bias, output;
    dnnl_primitive_attr_t attributes;
    dnnl_primitive_desc_t primitive;
};

static void description_destroy(struct description *d)
{
    if (d->primitive != NULL)
        dnnl_primitive_desc_destroy(d->primitive);
    if (d->attributes != NULL)
        dnnl_primitive_attr_destroy(d->attributes);
    layout_destroy(d->source);
    layout_destroy(d->weights);
    layout_destroy(d->bias);
    layout_destroy(d->output);
}

/* `packed` is the layout of the weights, or NULL for oneDNN to choose it. */
static dnnl_status_t description_create(struct description *d, struct onednn *dnn,
                                        const struct onednn_product_spec *spec,
                                        const_layout_t packed)
{
    const dnnl_dims_t source = {spec->rows, spec->inputs};
    const dnnl_dims_t weights = {spec->inputs, spec->outputs};
    const dnnl_dims_t bias = {1, spec->outputs};
    const dnnl_dims_t output = {spec->rows, spec->outputs};
    dnnl_data_type_t type = type_of(spec->datatype);
    dnnl_status_t status;

    memset(d, 0, sizeof(*d));
    status = layout_create(&d->source, 2, source, type, dnnl_ab);
    if (status == dnnl_success)
        status = packed != NULL ? layout_clone(&d->weights, packed)
                                : layout_create(&d->weights, 2, weights, type, dnnl_format_tag_any);
    if (status == dnnl_success && spec->bias)
        status = layout_create(&d->bias, 2, bias, dnnl_f32, dnnl_ab);
    if (status == dnnl_success)
        status = layout_create(&d->output, 2, output, type_of(spec->output_datatype), dnnl_ab);
    if (status == dnnl_success)
        status = create_attributes(&d->attributes, spec);
    if (status == dnnl_success)
        status = describe_product(&d->primitive, dnn->engine, d->source, d->weights, d->bias,
                                  d->output, d->attributes);
    if (status != dnnl_success)
        description_destroy(d);
    return status;
}

int onednn_product_create(struct onednn *dnn, struct onednn_product **out,
                          const struct onednn_product_spec *spec,
                          const struct onednn_weights *weights, libsched_error *err)
{
    struct onednn_product *product = calloc(1, sizeof(*product));
    struct description d;
    const_layout_t scratch;
    dnnl_status_t status;

    if (product == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a product");
    status = description_create(&d, dnn, spec, weights->layout);
    if (status != dnnl_success) {
        free(product);
        return failed(status, "a matrix product", err);
    }
    scratch = dnnl_primitive_desc_query_md(d.primitive, dnnl_query_scratchpad_md, 0);
    product->scratch_size = dnnl_memory_desc_get_size(scratch);

    status = dnnl_primitive_create(&product->primitive, d.primitive);
    if (status == dnnl_success)
        status = dnnl_memory_create(&product->source, d.source, dnn->engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success && spec->bias)
        status = dnnl_memory_create(&product->bias, d.bias, dnn->engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success)
        status = dnnl_memory_create(&product->output, d.output, dnn->engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success)
        status = dnnl_memory_create(&product->scratch, scratch, dnn->engine, DNNL_MEMORY_NONE);
    description_destroy(&d);
    if (status != dnnl_success) {
        onednn_product_destroy(product);
        return failed(status, "a matrix product", err);
    }
    *out = product;
    return LIBSCHED_OK;
}

void onednn_product_destroy(struct onednn_product *product)
{
    if (product == NULL)
        return;
    if (product->primitive != NULL)
        dnnl_primitive_destroy(product->primitive);
    if (product->source != NULL)
        dnnl_memory_destroy(product->source);
    if (product->bias != NULL)
        dnnl_memory_destroy(product->bias);
    if (product->output != NULL)
        dnnl_memory_destroy(product->output);
    if (product->scratch != NULL)
        dnnl_memory_destroy(product->scratch);
    free(product);
}

size_t onednn_product_scratch_size(const struct onednn_product *product)
{
    return product->scratch_size;
}

int onednn_product_run(struct onednn *dnn, struct onednn_product *product, const void *source,
                       const struct onednn_weights *weights, const float *bias, void *output,
                       void *scratch, libsched_error *err)
{
    dnnl_exec_arg_t arguments[5] = {
        {DNNL_ARG_SRC, product->source},
        {DNNL_ARG_WEIGHTS, weights->memory},
        {DNNL_ARG_DST, product->output},
        {DNNL_ARG_SCRATCHPAD, product->scratch},
    };
    int n = 4;
    /* oneDNN takes handles that are not const; it only reads these two. */
    dnnl_status_t status = dnnl_memory_set_data_handle(product->source, (void *)source);

    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(product->output, output);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(product->scratch, scratch);
    if (status == dnnl_success && bias != NULL) {
        status = dnnl_memory_set_data_handle(product->bias, (void *)bias);
        arguments[n].arg = DNNL_ARG_BIAS;
        arguments[n++].memory = product->bias;
    }
    if (status == dnnl_success)
        status = dnnl_primitive_execute(product->primitive, dnn->stream, n, arguments);
    if (status == dnnl_success)
        status = dnnl_stream_wait(dnn->stream);
    return status == dnnl_success ? LIBSCHED_OK : failed(status, "running a matrix product", err);
}

/* ------------------------------------------------------------------------------------- weights */

static dnnl_status_t reorder(struct onednn *dnn, dnnl_memory_t source, const_layout_t from,
                             dnnl_memory_t target, const_layout_t to)
{
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, target}};
    dnnl_primitive_desc_t description = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_status_t status;

    status =
        dnnl_reorder_primitive_desc_create(&description, from, dnn->engine, to, dnn->engine, NULL);
    if (status == dnnl_success) {
        status = dnnl_primitive_create(&primitive, description);
        dnnl_primitive_desc_destroy(description);
    }
    if (status == dnnl_success) {
        status = dnnl_primitive_execute(primitive, dnn->stream, 2, arguments);
        if (status == dnnl_success)
            status = dnnl_stream_wait(dnn->stream);
        dnnl_primitive_destroy(primitive);
    }
    return status;
}

/* Fills weights->memory from `source`. */
static dnnl_status_t fill(struct onednn *dnn, struct onednn_weights *weights, int64_t inputs,
                          int64_t outputs, const float *source)
{
    const dnnl_dims_t shape = {inputs, outputs};
    layout_t plain = NULL;
    dnnl_memory_t memory = NULL;
    dnnl_status_t status;

    /* [outputs, inputs] row by row is [inputs, outputs] column by column. */
    status = layout_create(&plain, 2, shape, dnnl_f32, dnnl_ba);
    if (status == dnnl_success)
        status = dnnl_memory_create(&memory, plain, dnn->engine, (void *)source);
    if (status == dnnl_success) {
        status = reorder(dnn, memory, plain, weights->memory, weights->layout);
        dnnl_memory_destroy(memory);
    }
    layout_destroy(plain);
    return status;
}

int onednn_weights_create(struct onednn *dnn, struct onednn_weights *out, uint32_t datatype,
                          int64_t inputs, int64_t outputs, const float *source, libsched_error *err)
{
    const struct onednn_product_spec spec = {
        .rows = PACKING_ROWS,
        .inputs = inputs,
        .outputs = outputs,
        .datatype = datatype,
        .output_datatype = LIBSCHED_FP32,
        .bias = true,
    };
    struct description d;
    dnnl_status_t status;
    dnnl_memory_t memory;
    layout_t layout = NULL;

    memset(out, 0, sizeof(*out));
    status = description_create(&d, dnn, &spec, NULL);
    if (status != dnnl_success)
        return failed(status, "packing a matrix", err);
    status =
        layout_clone(&layout, dnnl_primitive_desc_query_md(d.primitive, dnnl_query_weights_md, 0));
    description_destroy(&d);
    if (status != dnnl_success)
        return failed(status, "packing a matrix", err);

    out->layout = layout;
    out->size = dnnl_memory_desc_get_size(layout);
    out->data = cpu_alloc(out->size);
    if (out->data == NULL) {
        onednn_weights_destroy(out);
        return libsched_error_set(err, LIBSCHED_ENODEVMEM, "no memory for a matrix of %zu bytes",
                                  out->size);
    }
    status = dnnl_memory_create(&memory, layout, dnn->engine, out->data);
    if (status == dnnl_success) {
        out->memory = memory;
        status = fill(dnn, out, inputs, outputs, source);
    }
    if (status != dnnl_success) {
        onednn_weights_destroy(out);
        return failed(status, "packing a matrix", err);
    }
    return LIBSCHED_OK;
}

void onednn_weights_destroy(struct onednn_weights *weights)
{
    if (weights->memory != NULL)
        dnnl_memory_destroy(weights->memory);
    layout_destroy(weights->layout);
    cpu_free(weights->data, weights->size);
    memset(weights, 0, sizeof(*weights));
}
