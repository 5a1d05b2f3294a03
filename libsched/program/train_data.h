/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a classifier is trained on: a file of JSON objects, one a line, each with a "text" and its
 * "label" (a string, or an integer, which stands for its digits). Other keys and empty lines are
 * ignored.
 */
#ifndef PROGRAM_TRAIN_DATA_H
#define PROGRAM_TRAIN_DATA_H

#include <stddef.h>
#include <stdint.h>

#include <libsched/status.h>

#include "engine/encoder_head.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRAIN_MAX_CLASSES 1024u
#define TRAIN_MAX_LABEL 256u

struct train_example {
    const char *text; /* not NUL-terminated */
    uint32_t length;
    uint32_t label; /* index of its class */
};

struct train_data {
    uint32_t n, n_classes;
    struct train_example *examples; /* in the file's order */
    struct encoder_label *classes;  /* sorted by their bytes */
    char *bytes;                    /* of all texts and labels */
};

/* Reads a file. LIBSCHED_EINVAL: it is not there or not as it has to be, with the line; fewer than
 * two classes. */
int train_data_read(struct train_data *out, const char *path, libsched_error *err);
void train_data_free(struct train_data *data);

#ifdef __cplusplus
}
#endif

#endif
