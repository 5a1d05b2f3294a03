/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A classifier on top of an encoder's embeddings, where the model's folder has one:
 * head.safetensors with
 *   weight  F32 [classes, hidden]
 *   bias    F32 [classes]
 *   labels  U8 [bytes]: the classes' names in UTF-8, each preceded by its length as a
 *           little-endian uint32, as in a BYTES tensor
 * The scores of an embedding e are softmax(weight e + bias). It is computed on the host: beside the
 * encoder it costs nothing.
 */
#ifndef ENGINE_ENCODER_HEAD_H
#define ENGINE_ENCODER_HEAD_H

#include <stddef.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ENCODER_HEAD_FILE "head.safetensors"
#define ENCODER_HEAD_MAX_CLASSES 65536u

struct encoder_label {
    const char *text; /* not NUL-terminated */
    uint32_t length;
};

struct encoder_head {
    uint32_t classes, hidden;
    float *weight; /* [classes, hidden] */
    float *bias;   /* [classes] */
    double *logits;
    struct encoder_label *labels;
    char *label_data;
};

/* Loads the head of the model in `folder`; `*out` is NULL where it has none. LIBSCHED_EBADMODEL:
 * one that does not fit. */
int encoder_head_load(struct encoder_head **out, const char *folder, uint32_t hidden,
                      libsched_error *err);
/* NULL is allowed. */
void encoder_head_free(struct encoder_head *head);

/* The scores of one embedding: `classes` numbers that add up to 1. */
void encoder_head_scores(struct encoder_head *head, const float *embedding, float *scores);
/* The class of the largest score, the first of them. */
uint32_t encoder_head_best(const struct encoder_head *head, const float *scores);

/* Writes a head to a new file. */
int encoder_head_write(const char *path, uint32_t classes, uint32_t hidden, const float *weight,
                       const float *bias, const struct encoder_label *labels, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
