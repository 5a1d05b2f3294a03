/* SPDX-License-Identifier: Apache-2.0 */
/* A cache in sets: a spec's hash names a set, and the least recently used of a full set goes. */
#include "device/cpu_products.h"

#include <stdlib.h>
#include <string.h>

#define SETS 64
#define WAYS 16

struct entry {
    struct onednn_product_spec spec;
    struct onednn_product *product; /* NULL: free */
    uint64_t used;                  /* when, on the cache's clock */
};

struct cpu_products {
    uint64_t clock;
    struct entry entries[SETS][WAYS];
};

int64_t cpu_ladder_rung(int64_t rows)
{
    int64_t step = rows <= 8 ? 1 : rows <= 64 ? 4 : rows <= 256 ? 8 : 16;

    return (rows + step - 1) / step * step;
}

int cpu_products_create(struct cpu_products **out, libsched_error *err)
{
    *out = calloc(1, sizeof(**out));
    if (*out == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for compiled products");
    return LIBSCHED_OK;
}

void cpu_products_destroy(struct cpu_products *products)
{
    if (products == NULL)
        return;
    for (size_t i = 0; i < SETS; i++)
        for (size_t j = 0; j < WAYS; j++)
            onednn_product_destroy(products->entries[i][j].product);
    free(products);
}

/* Rows that follow each other fall into sets that follow each other. */
static size_t set_of(const struct onednn_product_spec *s)
{
    uint64_t shape = (uint64_t)s->inputs * 31 + (uint64_t)s->outputs;

    shape = shape * 31 + s->datatype;
    shape = shape * 31 + s->output_datatype;
    shape = shape * 31 + s->activation;
    shape = shape * 31 + (uint64_t)s->accumulate * 2 + s->bias;
    shape *= 0x9e3779b97f4a7c15u;
    return (size_t)((shape >> 32) + (uint64_t)cpu_ladder_rung(s->rows) / 8) % SETS;
}

static bool same_spec(const struct onednn_product_spec *a, const struct onednn_product_spec *b)
{
    return a->rows == b->rows && a->inputs == b->inputs && a->outputs == b->outputs &&
           a->datatype == b->datatype && a->output_datatype == b->output_datatype &&
           a->activation == b->activation && a->accumulate == b->accumulate && a->bias == b->bias;
}

/* The entry of a spec, or the one that makes room for it. */
static struct entry *find(struct cpu_products *products, const struct onednn_product_spec *spec)
{
    struct entry *set = products->entries[set_of(spec)];
    struct entry *oldest = &set[0];

    for (size_t i = 0; i < WAYS; i++) {
        if (set[i].product != NULL && same_spec(&set[i].spec, spec))
            return &set[i];
        if (set[i].used < oldest->used)
            oldest = &set[i];
    }
    onednn_product_destroy(oldest->product);
    oldest->product = NULL;
    oldest->used = 0;
    return oldest;
}

int cpu_products_get(struct cpu_products *products, struct onednn *dnn,
                     const struct onednn_product_spec *spec, const struct onednn_weights *weights,
                     struct onednn_product **out, libsched_error *err)
{
    struct entry *entry = find(products, spec);

    if (entry->product == NULL) {
        int status = onednn_product_create(dnn, &entry->product, spec, weights, err);
        if (status != LIBSCHED_OK)
            return status;
        entry->spec = *spec;
    }
    entry->used = ++products->clock;
    *out = entry->product;
    return LIBSCHED_OK;
}
