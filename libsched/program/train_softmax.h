/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A softmax classifier, and the gradient of its loss.
 *
 * Gradients are added up as integers: each term is rounded to a fixed fraction, and whole numbers
 * have the same sum in whatever order and in however many parts they are added. So the weights do
 * not depend on how many devices shared the examples between them, not by a bit.
 *
 * Devices add floating-point numbers, so that for the way between ranks a sum is cut into limbs of
 * 12 bits: those of a thousand ranks have a sum that FP32 holds exactly.
 */
#ifndef PROGRAM_TRAIN_SOFTMAX_H
#define PROGRAM_TRAIN_SOFTMAX_H

#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SOFTMAX_LIMBS 5u
/* Examples whose terms have room in one sum. */
#define SOFTMAX_MAX_BATCH 65536u

struct softmax {
    uint32_t classes, width;
    double *weight; /* [classes, width + 1]: the last column is the bias */
    int64_t *sums;  /* of the gradient, as weight; then of the loss, and of those that were right */
    uint64_t n_sums;   /* classes (width + 1) + 2 */
    double *scores;    /* [classes] */
    double resolution; /* of the gradient's terms: one divided by it is the smallest */
};

/* How many sums a classifier has. */
uint64_t softmax_count_sums(uint32_t classes, uint32_t width);
/* `largest` is at least the largest component of any example's embedding, the same on all ranks. */
int softmax_init(struct softmax *out, uint32_t classes, uint32_t width, double largest,
                 libsched_error *err);
void softmax_free(struct softmax *model);

/* Begins a batch. */
void softmax_clear(struct softmax *model);
/* Adds an example's terms to the sums. */
void softmax_add(struct softmax *model, const float *embedding, uint32_t label);
/* The limbs of the sums, [SOFTMAX_LIMBS, n_sums], and back. */
void softmax_split(const struct softmax *model, float *limbs);
void softmax_join(struct softmax *model, const float *limbs);
/* One step down the gradient of the mean loss of the batch, of `n` examples. */
void softmax_update(struct softmax *model, uint64_t n, double rate);
/* What the batch says of the model before the step: the sum of its losses, and how many of its
 * examples had the largest score for their own class. */
double softmax_loss(const struct softmax *model);
uint64_t softmax_right(const struct softmax *model);

#ifdef __cplusplus
}
#endif

#endif
