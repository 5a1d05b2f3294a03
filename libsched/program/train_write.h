/* SPDX-License-Identifier: Apache-2.0 */
/* A model's folder with a classifier on top, made of an encoder's. */
#ifndef PROGRAM_TRAIN_WRITE_H
#define PROGRAM_TRAIN_WRITE_H

#include <libsched/status.h>

#include "catalog/manifest.h"
#include "engine/encoder_head.h"
#include "program/train_softmax.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Makes the folder, whole or not at all: the encoder's files, the classifier, and a manifest with
 * the encoder's parameters. */
int train_write(const char *path, const struct catalog_model *encoder, const struct softmax *head,
                const struct encoder_label *labels, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
