/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Embeddings of texts by an encoder's model, which is loaded for it: the engine's own prepare() and
 * step(), with a host that keeps what they make.
 */
#ifndef PROGRAM_EMBEDDER_H
#define PROGRAM_EMBEDDER_H

#include <libsched/engine.h>

#include "catalog/encoder_config.h"
#include "catalog/manifest.h"
#include "engine/encoder.h"
#include "program/rank.h"

#ifdef __cplusplus
extern "C" {
#endif

struct embedder;

struct embedder_options {
    const char *program; /* for messages */
    uint32_t threads;
    const struct encoder_split *split; /* NULL: the model is whole on this device */
    const struct rank_head *copies;    /* those who load the whole of it too; NULL: nobody */
    const char *precision;             /* NULL: the model's own */
    uint64_t batch; /* tokens that are computed at once, at most; 0: the device's usual */
};

/* A text, or its tokens. */
struct embedder_text {
    const char *text; /* not NUL-terminated; NULL: `ids` are given */
    const int32_t *ids;
    uint32_t length; /* bytes, or ids */
};

/* The model in a folder, which has to be an encoder's; `*out` is the caller's, to be closed by
 * catalog_close(). LIBSCHED_EINVAL where it is none. */
int embedder_find_model(struct catalog_model **out, const char *path, const char *program,
                        libsched_error *err);
/* Device memory that it takes, at most, on any device: of a model that is split over n_ranks, a
 * rank's. `batch` is embedder_options'. */
uint64_t embedder_memory(const struct catalog_model *model, const struct encoder_config *config,
                         uint64_t batch, uint32_t n_ranks);
/* Loads the model onto the device. */
int embedder_open(struct embedder **out, const struct catalog_model *model,
                  struct libsched_device *device, const struct embedder_options *options,
                  libsched_error *err);
/* NULL is allowed. */
void embedder_close(struct embedder *embedder);

/* Components of an embedding. */
uint32_t embedder_width(const struct embedder *embedder);

/* The embeddings of `n` texts, as one batch: out is [n, width]. On failure `*which` is the text
 * that it is because of, or n. */
int embedder_run(struct embedder *embedder, const struct embedder_text *texts, uint32_t n,
                 float *out, uint32_t *which, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
