/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is to be embedded: a file of texts, and how they are cut into batches.
 *
 * A file whose name ends in ".jsonl" has JSON objects, one a line, each with a "text" or with
 * "input_ids" (a list of token ids, special tokens included); other keys and empty lines are
 * ignored. In any other file each line is a text, the empty ones as well.
 */
#ifndef PROGRAM_EMBED_DATA_H
#define PROGRAM_EMBED_DATA_H

#include <stdint.h>

#include <libsched/status.h>

#include "program/embedder.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Texts of a batch, however short they are. */
#define EMBED_MAX_TEXTS 4096u

struct embed_data {
    char *name; /* the file's, for messages */
    uint32_t n;
    struct embedder_text *texts; /* in the file's order */
    uint32_t *lines;             /* where each was */
    char *bytes;                 /* of the texts */
    int32_t *ids;

    uint32_t n_batches, most; /* texts in the largest */
    uint32_t *batches;        /* the first text of each, and behind the last */
};

/* Reads a file. LIBSCHED_EINVAL: it is not there, not as it has to be (with the line), or empty. */
int embed_data_read(struct embed_data *out, const char *path, libsched_error *err);
void embed_data_free(struct embed_data *data);

/* Cuts the texts into batches of about `tokens`, or of one text. A text of which no more than
 * `max_length` tokens are used is taken for a token every four bytes: every rank comes to the same
 * batches, without tokenizing what is not its own. */
int embed_data_plan(struct embed_data *data, uint64_t tokens, uint64_t max_length,
                    libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
