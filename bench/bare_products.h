/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limit that the encoder is held against: the matrix products of a BERT and nothing else, no
 * bias, no activation, no norm, no attention. Each layer has weights of its own, packed beforehand,
 * and a product is compiled for exactly the rows that come.
 */
#ifndef BENCH_BARE_PRODUCTS_H
#define BENCH_BARE_PRODUCTS_H

#include <stdint.h>

struct bare_products;

/* datatype: LIBSCHED_FP32 or LIBSCHED_BF16. Ends the program where it can't. */
struct bare_products *bare_products_open(uint32_t layers, int64_t hidden, int64_t intermediate,
                                         uint32_t datatype, uint32_t threads, int64_t max_rows);
void bare_products_close(struct bare_products *bare);
/* All products of all layers over so many rows. The first run of a number of rows compiles them. */
void bare_products_run(struct bare_products *bare, int64_t rows);

#endif
