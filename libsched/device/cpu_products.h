/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compiled products of a device, by shape. oneDNN compiles code for a number of rows; rows
 * come in any number, so they are rounded up to a ladder of them, and what was compiled is kept.
 */
#ifndef DEVICE_CPU_PRODUCTS_H
#define DEVICE_CPU_PRODUCTS_H

#include "device/cpu_onednn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* More rows than this are computed piece by piece. */
#define CPU_LADDER_TOP 1024

/* The rung for a number of rows from 1 to CPU_LADDER_TOP: the next one up. Each is at most a
 * quarter above the one below (from 32 on, an eighth), and at most 15 rows. */
int64_t cpu_ladder_rung(int64_t rows);

struct cpu_products;

int cpu_products_create(struct cpu_products **out, libsched_error *err);
void cpu_products_destroy(struct cpu_products *products);

/* The product for a spec, compiled now where it is not there. Valid until the next call; the
 * least recently used give way when there are too many. */
int cpu_products_get(struct cpu_products *products, struct onednn *dnn,
                     const struct onednn_product_spec *spec, const struct onednn_weights *weights,
                     struct onednn_product **out, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
