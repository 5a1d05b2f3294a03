/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/encoder_head.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/file.h"
#include "catalog/safetensors.h"

#define FILE_NAME ENCODER_HEAD_FILE

static const libsched_tensor *require(const struct safetensors *file, const char *name,
                                      uint32_t datatype, uint32_t rank, libsched_error *err)
{
    const libsched_tensor *t = safetensors_find(file, name);
    if (t == NULL) {
        libsched_error_set(err, LIBSCHED_EBADMODEL, FILE_NAME " has no tensor \"%s\"", name);
        return NULL;
    }
    if (t->datatype != datatype || t->rank != rank) {
        libsched_error_set(err, LIBSCHED_EBADMODEL,
                           FILE_NAME ": \"%s\" is %s with %" PRIu32 " dimensions, %s with %" PRIu32
                                     " is needed",
                           name, libsched_datatype_name(t->datatype), t->rank,
                           libsched_datatype_name(datatype), rank);
        return NULL;
    }
    return t;
}

/* Whether all numbers are finite. */
static bool is_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

static int read_numbers(struct encoder_head *head, const struct safetensors *file,
                        libsched_error *err)
{
    const libsched_tensor *weight = require(file, "weight", LIBSCHED_FP32, 2, err);
    const libsched_tensor *bias =
        weight != NULL ? require(file, "bias", LIBSCHED_FP32, 1, err) : NULL;
    if (bias == NULL)
        return LIBSCHED_EBADMODEL;
    if (weight->shape[0] < 1 || weight->shape[0] > ENCODER_HEAD_MAX_CLASSES ||
        (uint64_t)weight->shape[1] != head->hidden || bias->shape[0] != weight->shape[0])
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  FILE_NAME
                                  ": \"weight\" is [%" PRId64 ", %" PRId64 "], \"bias\" [%" PRId64
                                  "]: the model needs [classes, %" PRIu32 "] and [classes]",
                                  weight->shape[0], weight->shape[1], bias->shape[0], head->hidden);
    head->classes = (uint32_t)weight->shape[0];
    head->weight = malloc(weight->size);
    head->bias = malloc(bias->size);
    head->logits = calloc(head->classes, sizeof(*head->logits));
    if (head->weight == NULL || head->bias == NULL || head->logits == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model's head");
    memcpy(head->weight, weight->data, weight->size);
    memcpy(head->bias, bias->data, bias->size);
    if (!is_finite(head->weight, (size_t)head->classes * head->hidden) ||
        !is_finite(head->bias, head->classes))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  FILE_NAME " has numbers that are not finite");
    return LIBSCHED_OK;
}

static int read_labels(struct encoder_head *head, const struct safetensors *file,
                       libsched_error *err)
{
    const libsched_tensor *labels = require(file, "labels", LIBSCHED_UINT8, 1, err);
    if (labels == NULL)
        return LIBSCHED_EBADMODEL;
    const libsched_tensor as_bytes = {.name = "labels",
                                      .datatype = LIBSCHED_BYTES,
                                      .rank = 1,
                                      .shape = {head->classes},
                                      .data = labels->data,
                                      .size = labels->size};
    if (libsched_tensor_check(&as_bytes, NULL) != LIBSCHED_OK)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  FILE_NAME ": \"labels\" are not %" PRIu32
                                            " texts, each preceded by its length",
                                  head->classes);
    head->labels = calloc(head->classes, sizeof(*head->labels));
    head->label_data = malloc(labels->size + 1);
    if (head->labels == NULL || head->label_data == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model's labels");
    memcpy(head->label_data, labels->data, labels->size);
    const char *at = head->label_data;
    for (uint32_t i = 0; i < head->classes; i++) {
        uint32_t length;
        memcpy(&length, at, sizeof(length));
        head->labels[i] = (struct encoder_label){at + sizeof(length), length};
        at += sizeof(length) + length;
    }
    return LIBSCHED_OK;
}

int encoder_head_load(struct encoder_head **out, const char *folder, uint32_t hidden,
                      libsched_error *err)
{
    *out = NULL;
    if (!catalog_file_exists(folder, FILE_NAME))
        return LIBSCHED_OK;
    char *path = catalog_file_join(folder, FILE_NAME);
    struct encoder_head *head = calloc(1, sizeof(*head));
    struct safetensors *file = NULL;
    int status = LIBSCHED_OK;
    if (path == NULL || head == NULL)
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a model's head");
    if (status == LIBSCHED_OK) {
        head->hidden = hidden;
        status = safetensors_open(&file, path, err);
    }
    if (status == LIBSCHED_OK)
        status = read_numbers(head, file, err);
    if (status == LIBSCHED_OK)
        status = read_labels(head, file, err);
    if (file != NULL)
        safetensors_close(file);
    free(path);
    if (status != LIBSCHED_OK) {
        encoder_head_free(head);
        return status;
    }
    *out = head;
    return LIBSCHED_OK;
}

void encoder_head_free(struct encoder_head *head)
{
    if (head == NULL)
        return;
    free(head->weight);
    free(head->bias);
    free(head->logits);
    free(head->labels);
    free(head->label_data);
    free(head);
}

void encoder_head_scores(struct encoder_head *head, const float *embedding, float *scores)
{
    double largest = -INFINITY, sum = 0;
    for (uint32_t c = 0; c < head->classes; c++) {
        const float *row = head->weight + (size_t)c * head->hidden;
        double logit = head->bias[c];
        for (uint32_t i = 0; i < head->hidden; i++)
            logit += (double)row[i] * embedding[i];
        head->logits[c] = logit;
        largest = logit > largest ? logit : largest;
    }
    for (uint32_t c = 0; c < head->classes; c++) {
        head->logits[c] = exp(head->logits[c] - largest);
        sum += head->logits[c];
    }
    for (uint32_t c = 0; c < head->classes; c++)
        scores[c] = (float)(head->logits[c] / sum);
}

uint32_t encoder_head_best(const struct encoder_head *head, const float *scores)
{
    uint32_t best = 0;
    for (uint32_t c = 1; c < head->classes; c++)
        if (scores[c] > scores[best])
            best = c;
    return best;
}

int encoder_head_write(const char *path, uint32_t classes, uint32_t hidden, const float *weight,
                       const float *bias, const struct encoder_label *labels, libsched_error *err)
{
    uint64_t size = 0;
    for (uint32_t i = 0; i < classes; i++)
        size += sizeof(uint32_t) + labels[i].length;
    char *data = malloc(size + 1);
    if (data == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for labels");
    char *at = data;
    for (uint32_t i = 0; i < classes; i++) {
        memcpy(at, &labels[i].length, sizeof(uint32_t));
        memcpy(at + sizeof(uint32_t), labels[i].text, labels[i].length);
        at += sizeof(uint32_t) + labels[i].length;
    }
    const libsched_tensor tensors[] = {
        {.name = "weight",
         .datatype = LIBSCHED_FP32,
         .rank = 2,
         .shape = {classes, hidden},
         .data = weight,
         .size = (uint64_t)classes * hidden * sizeof(float)},
        {.name = "bias",
         .datatype = LIBSCHED_FP32,
         .rank = 1,
         .shape = {classes},
         .data = bias,
         .size = classes * sizeof(float)},
        {.name = "labels",
         .datatype = LIBSCHED_UINT8,
         .rank = 1,
         .shape = {(int64_t)size},
         .data = data,
         .size = size},
    };
    int status = safetensors_write(path, tensors, sizeof(tensors) / sizeof(tensors[0]), err);
    free(data);
    return status;
}
