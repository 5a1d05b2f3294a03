/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Embeddings of texts by an encoder's model, which is loaded for it: the engine's own prepare() and
 * step(), with a host that keeps what they make.
 */
#ifndef PROGRAM_TRAIN_EMBED_H
#define PROGRAM_TRAIN_EMBED_H

#include <libsched/engine.h>

#include "catalog/manifest.h"
#include "program/train_data.h"

#ifdef __cplusplus
extern "C" {
#endif

struct train_embedder;

/* Loads the model onto the device. */
int train_embedder_open(struct train_embedder **out, const struct catalog_model *model,
                        struct libsched_device *device, uint32_t threads, libsched_error *err);
/* NULL is allowed. */
void train_embedder_close(struct train_embedder *embedder);

/* Components of an embedding. */
uint32_t train_embedder_width(const struct train_embedder *embedder);

/* The embeddings of `n` texts, as one batch: out is [n, width]. */
int train_embed(struct train_embedder *embedder, const struct train_example *texts, uint32_t n,
                float *out, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
