/* SPDX-License-Identifier: Apache-2.0 */
#include "program/train_softmax.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define LIMB_BITS 12
/* A term has up to 40 bits, 65536 of them then 56: five limbs have 60. */
#define TERM_BITS 40
#define LOSS_RESOLUTION 0x1p30
/* More than any loss that can be told from an infinite one. */
#define MAX_LOSS 1000.0

uint64_t softmax_count_sums(uint32_t classes, uint32_t width)
{
    return (uint64_t)classes * (width + UINT64_C(1)) + 2;
}

int softmax_init(struct softmax *out, uint32_t classes, uint32_t width, double largest,
                 libsched_error *err)
{
    const uint64_t sums = softmax_count_sums(classes, width), weights = sums - 2;
    int exponent;

    memset(out, 0, sizeof(*out));
    out->classes = classes;
    out->width = width;
    out->n_sums = sums;
    out->weight = calloc(weights, sizeof(*out->weight));
    out->sums = calloc(out->n_sums, sizeof(*out->sums));
    out->scores = calloc(classes, sizeof(*out->scores));
    if (out->weight == NULL || out->sums == NULL || out->scores == NULL) {
        softmax_free(out);
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a classifier");
    }
    /* The bias has the component 1. */
    frexp(largest > 1 ? largest : 1, &exponent);
    out->resolution = ldexp(1, TERM_BITS - exponent);
    return LIBSCHED_OK;
}

void softmax_free(struct softmax *model)
{
    free(model->weight);
    free(model->sums);
    free(model->scores);
    memset(model, 0, sizeof(*model));
}

void softmax_clear(struct softmax *model)
{
    memset(model->sums, 0, model->n_sums * sizeof(*model->sums));
}

/* Leaves the classes' probabilities in `scores`, and answers the loss. */
static double score(struct softmax *model, const float *embedding, uint32_t label, bool *right)
{
    double largest = -INFINITY, sum = 0, own;
    uint32_t best = 0;

    for (uint32_t c = 0; c < model->classes; c++) {
        const double *row = model->weight + (uint64_t)c * (model->width + 1);
        double logit = row[model->width];
        for (uint32_t i = 0; i < model->width; i++)
            logit += row[i] * embedding[i];
        model->scores[c] = logit;
        if (logit > largest) {
            largest = logit;
            best = c;
        }
    }
    own = model->scores[label] - largest;
    for (uint32_t c = 0; c < model->classes; c++) {
        model->scores[c] = exp(model->scores[c] - largest);
        sum += model->scores[c];
    }
    for (uint32_t c = 0; c < model->classes; c++)
        model->scores[c] /= sum;
    *right = best == label;
    return log(sum) - own;
}

void softmax_add(struct softmax *model, const float *embedding, uint32_t label)
{
    int64_t *totals = model->sums + model->n_sums - 2;
    bool right;
    double loss = score(model, embedding, label, &right);

    totals[0] += llrint((loss < MAX_LOSS ? loss : MAX_LOSS) * LOSS_RESOLUTION);
    totals[1] += right;
    for (uint32_t c = 0; c < model->classes; c++) {
        const double slope = (model->scores[c] - (c == label)) * model->resolution;
        int64_t *row = model->sums + (uint64_t)c * (model->width + 1);
        for (uint32_t i = 0; i < model->width; i++)
            row[i] += llrint(slope * embedding[i]);
        row[model->width] += llrint(slope);
    }
}

void softmax_split(const struct softmax *model, float *limbs)
{
    const int64_t mask = (1 << LIMB_BITS) - 1;

    for (uint64_t i = 0; i < model->n_sums; i++) {
        int64_t rest = model->sums[i];
        for (uint32_t limb = 0; limb + 1 < SOFTMAX_LIMBS; limb++) {
            limbs[limb * model->n_sums + i] = (float)(rest & mask);
            /* To the next lower number: the last limb has the sign. */
            rest = (rest - (rest & mask)) / (mask + 1);
        }
        limbs[(SOFTMAX_LIMBS - 1) * model->n_sums + i] = (float)rest;
    }
}

void softmax_join(struct softmax *model, const float *limbs)
{
    for (uint64_t i = 0; i < model->n_sums; i++) {
        int64_t sum = 0;
        for (uint32_t limb = SOFTMAX_LIMBS; limb-- > 0;)
            sum = sum * (1 << LIMB_BITS) + llrintf(limbs[limb * model->n_sums + i]);
        model->sums[i] = sum;
    }
}

void softmax_update(struct softmax *model, uint64_t n, double rate)
{
    const double factor = rate / ((double)n * model->resolution);

    for (uint64_t i = 0; i + 2 < model->n_sums; i++)
        model->weight[i] -= factor * (double)model->sums[i];
}

double softmax_loss(const struct softmax *model)
{
    return (double)model->sums[model->n_sums - 2] / LOSS_RESOLUTION;
}

uint64_t softmax_right(const struct softmax *model)
{
    return (uint64_t)model->sums[model->n_sums - 1];
}
