/* SPDX-License-Identifier: Apache-2.0 */
#include "bare_products.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/cpu_memory.h"
#include "device/cpu_onednn.h"

#define PRODUCTS 4

/* The products of one number of rows. */
struct compiled {
    int64_t rows;
    struct onednn_product *products[PRODUCTS];
    struct compiled *next;
};

struct bare_products {
    struct onednn *dnn;
    uint32_t layers, datatype, threads;
    struct {
        int64_t inputs, outputs;
    } shapes[PRODUCTS];
    struct onednn_weights *weights; /* PRODUCTS of each layer */
    void *buffers[2];
    size_t buffer_size, scratch_size;
    void *scratch;
    struct compiled *compiled;
};

static void check(int status, const libsched_error *err)
{
    if (status == LIBSCHED_OK)
        return;
    fprintf(stderr, "bench: %s\n", err->message);
    exit(1);
}

static void *allocate(size_t size)
{
    libsched_error err = {.message = "no memory"};
    void *memory = cpu_alloc(size);

    check(memory != NULL ? LIBSCHED_OK : LIBSCHED_ENOMEM, &err);
    return memory;
}

static void pack_weights(struct bare_products *bare)
{
    libsched_error err;
    int64_t largest = 0;
    float *source;

    for (int p = 0; p < PRODUCTS; p++)
        if (bare->shapes[p].inputs * bare->shapes[p].outputs > largest)
            largest = bare->shapes[p].inputs * bare->shapes[p].outputs;
    source = allocate((size_t)largest * sizeof(*source));
    for (int64_t i = 0; i < largest; i++)
        source[i] = (float)(i % 31 - 15) / 256;
    for (uint32_t i = 0; i < bare->layers * PRODUCTS; i++)
        check(onednn_weights_create(bare->dnn, &bare->weights[i], bare->datatype,
                                    bare->shapes[i % PRODUCTS].inputs,
                                    bare->shapes[i % PRODUCTS].outputs, source, &err),
              &err);
    cpu_free(source, (size_t)largest * sizeof(*source));
}

struct bare_products *bare_products_open(uint32_t layers, int64_t hidden, int64_t intermediate,
                                         uint32_t datatype, uint32_t threads, int64_t max_rows)
{
    struct bare_products *bare = allocate(sizeof(*bare));
    const int64_t shapes[PRODUCTS][2] = {
        {hidden, 3 * hidden}, {hidden, hidden}, {hidden, intermediate}, {intermediate, hidden}};
    const int64_t widest = 3 * hidden > intermediate ? 3 * hidden : intermediate;
    libsched_error err;

    bare->layers = layers;
    bare->datatype = datatype;
    bare->threads = threads;
    for (int p = 0; p < PRODUCTS; p++) {
        bare->shapes[p].inputs = shapes[p][0];
        bare->shapes[p].outputs = shapes[p][1];
    }
    omp_set_num_threads((int)threads);
    check(onednn_open(&bare->dnn, &err), &err);
    bare->weights = allocate(layers * PRODUCTS * sizeof(*bare->weights));
    pack_weights(bare);
    bare->buffer_size = (size_t)(max_rows * widest) * sizeof(float);
    for (int i = 0; i < 2; i++)
        bare->buffers[i] = allocate(bare->buffer_size);
    return bare;
}

static struct compiled *compile(struct bare_products *bare, int64_t rows)
{
    struct compiled *c = allocate(sizeof(*c));
    libsched_error err;

    c->rows = rows;
    for (int p = 0; p < PRODUCTS; p++) {
        const struct onednn_product_spec spec = {
            .rows = rows,
            .inputs = bare->shapes[p].inputs,
            .outputs = bare->shapes[p].outputs,
            .datatype = bare->datatype,
            .output_datatype = LIBSCHED_FP32,
        };
        size_t size;
        check(onednn_product_create(bare->dnn, &c->products[p], &spec, &bare->weights[p], &err),
              &err);
        size = onednn_product_scratch_size(c->products[p]);
        if (size > bare->scratch_size) {
            cpu_free(bare->scratch, bare->scratch_size);
            bare->scratch = allocate(size);
            bare->scratch_size = size;
        }
    }
    c->next = bare->compiled;
    bare->compiled = c;
    return c;
}

void bare_products_run(struct bare_products *bare, int64_t rows)
{
    struct compiled *c = bare->compiled;
    libsched_error err;

    omp_set_num_threads((int)bare->threads);
    while (c != NULL && c->rows != rows)
        c = c->next;
    if (c == NULL)
        c = compile(bare, rows);
    for (uint32_t i = 0; i < bare->layers * PRODUCTS; i++)
        check(onednn_product_run(bare->dnn, c->products[i % PRODUCTS], bare->buffers[i % 2],
                                 &bare->weights[i], NULL, bare->buffers[1 - i % 2], bare->scratch,
                                 &err),
              &err);
}

void bare_products_close(struct bare_products *bare)
{
    while (bare->compiled != NULL) {
        struct compiled *c = bare->compiled;
        bare->compiled = c->next;
        for (int p = 0; p < PRODUCTS; p++)
            onednn_product_destroy(c->products[p]);
        cpu_free(c, sizeof(*c));
    }
    for (uint32_t i = 0; i < bare->layers * PRODUCTS; i++)
        onednn_weights_destroy(&bare->weights[i]);
    cpu_free(bare->weights, bare->layers * PRODUCTS * sizeof(*bare->weights));
    for (int i = 0; i < 2; i++)
        cpu_free(bare->buffers[i], bare->buffer_size);
    cpu_free(bare->scratch, bare->scratch_size);
    onednn_close(bare->dnn);
    cpu_free(bare, sizeof(*bare));
}
