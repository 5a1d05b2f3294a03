/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the encoder share. */
#ifndef ENGINE_ENCODER_INTERNAL_H
#define ENGINE_ENCODER_INTERNAL_H

#include <libsched/device.h>
#include <libsched/engine.h>

#include "catalog/encoder_config.h"
#include "engine/encoder.h"
#include "engine/encoder_head.h"
#include "engine/tokenizer.h"

/* Tokens that are computed at once, where no sequence is longer: enough for the matrix products to
 * run at full speed, few enough for what lies between them to stay in the processor's caches. */
#define ENCODER_CHUNK_TOKENS 512

/* A model's parameters, checked. */
struct encoder_options {
    bool auto_precision;
    uint32_t precision; /* LIBSCHED_FP32 or LIBSCHED_BF16 */
    uint32_t max_length;
    uint32_t pooling; /* libsched_device_pooling */
    bool normalize;
    uint32_t max_batch_requests; /* 0: the device's usual */
    uint64_t max_batch_units;    /* 0: the device's usual */
    uint64_t max_request_units;
};

/* The defaults from the model's configuration, then the parameters. */
int encoder_options_read(struct encoder_options *out, const struct encoder_config *config,
                         const libsched_parameter *parameters, uint32_t n, libsched_error *err);
/* LIBSCHED_POOLING_MEAN: "mean". */
const char *encoder_pooling_name(uint32_t pooling);

struct encoder_linear {
    libsched_device_weight *weight;
    libsched_device_weight *bias; /* NULL: another rank of a split model adds it */
};

struct encoder_norm {
    libsched_device_weight *gain, *shift;
};

struct encoder_layer {
    struct encoder_linear qkv, attention, up, down;
    struct encoder_norm attention_norm, output_norm;
};

struct encoder_weights {
    libsched_device_weight *words, *positions, *types;
    struct encoder_norm norm;
    struct encoder_layer *layers;
    uint32_t n_layers;
    uint64_t bytes; /* on the device, about */
};

/* Ranks that have the whole of a model each, and load it at the same time: where the device can,
 * rank 0 alone reads the weights, and the others get them from it; not where they would read
 * another file. */
struct encoder_copies {
    uint32_t rank;
    struct libsched_device_communicator *communicator;
};

/* Loads the weights in folder/model.safetensors onto the device, of the layers a rank's share, or
 * all of them from rank 0 of `copies` (NULL: nobody else loads them now). On failure `out` is
 * empty.
 */
int encoder_weights_load(struct encoder_weights *out, libsched_device *device, const char *folder,
                         const struct encoder_config *config, uint32_t precision,
                         const struct encoder_split *split, const struct encoder_copies *copies,
                         libsched_error *err);
/* encoder_copies.c: whether the ranks can have the weights from rank 0, the same on all of them. */
int encoder_copies_agree(bool *out, libsched_device *device, const struct encoder_copies *copies,
                         const char *path, libsched_error *err);
void encoder_weights_free(struct encoder_weights *weights, libsched_device *device);

/* Chunks that may be under way: while one is computed, the next is copied in and the one before is
 * copied out. */
#define ENCODER_CHUNKS 2u

struct encoder_step;
struct encoder_piece;

/* What of a chunk has to stay until it is done. */
struct encoder_chunk {
    libsched_device_sequences *sequences;
    libsched_device_section *section; /* the model on them; NULL: the device has none */
    libsched_device_buffer *pooled;   /* [sequences, hidden] FP32 */
    float *head_input;                /* the embeddings, on the host; with a head */
    uint64_t mark;                    /* behind it, in the device's order */
    struct encoder_step *step;        /* NULL: it is free */
    struct encoder_piece *pieces;     /* what belongs to which item */
    uint32_t n_pieces;
    uint32_t n_sequences;
    uint64_t n_tokens;
    bool pool; /* some piece wants embeddings */
};

/* What chunks are computed in. */
struct encoder_scratch {
    uint64_t max_tokens;
    /* One where the device is done when a call returns. */
    struct encoder_chunk chunks[ENCODER_CHUNKS];
    uint32_t n_chunks, first, n_busy;    /* those under way, in their order, from `first` on */
    libsched_device_buffer *states;      /* [tokens, hidden] FP32: the residual stream */
    libsched_device_buffer *states_bf16; /* its copy in BF16, with that precision */
    /* Of a split model a rank's share of the columns. */
    libsched_device_buffer *qkv;     /* [tokens, 3 hidden] */
    libsched_device_buffer *context; /* [tokens, hidden] */
    libsched_device_buffer *middle;  /* [tokens, intermediate] */
    uint64_t bytes;
    /* On the host: the sequences of the chunk that is being put together. */
    uint32_t *starts;
    int32_t *ids;
};

int encoder_scratch_create(struct encoder_scratch *out, libsched_device *device,
                           const struct encoder_config *config, uint32_t precision,
                           uint32_t n_ranks, uint64_t max_tokens, bool head, libsched_error *err);
void encoder_scratch_free(struct encoder_scratch *scratch, libsched_device *device);

struct libsched_engine_model {
    char name[LIBSCHED_NAME_SIZE];
    struct encoder_config config;
    struct encoder_options options;
    struct encoder_split split; /* one rank: it is whole */
    struct tokenizer *tokenizer;
    struct encoder_head *head; /* NULL: it has none */
    libsched_device *device;   /* NULL: it only prepares */
    struct encoder_weights weights;
    struct encoder_scratch scratch;
    struct encoder_step *steps; /* that are under way, the first that was begun first */
};

/* A sequence's cost, see encoder.h. */
uint64_t encoder_sequence_units(const struct encoder_config *config, uint64_t tokens);

/* The shape of a rank's share of `all` columns, heads or whatever is split. */
static inline uint32_t encoder_share(uint32_t all, const struct encoder_split *split)
{
    return all / split->n_ranks;
}

/* Computes the chunk of n sequences that lies in scratch.starts and scratch.ids: the last layer
 * into scratch.states, and with `pool` the embeddings into chunk->pooled. */
int encoder_forward(libsched_engine_model *model, struct encoder_chunk *chunk, uint32_t n,
                    bool pool, libsched_error *err);

int encoder_prepare(libsched_engine_model *model, libsched_engine_batch *batch,
                    const libsched_engine_host *host, libsched_error *err);
int encoder_step(libsched_engine_model *model, libsched_engine_batch *batch,
                 const libsched_engine_host *host, libsched_error *err);
/* The same in two parts, see libsched/engine.h. */
int encoder_begin(libsched_engine_model *model, libsched_engine_batch *batch,
                  const libsched_engine_host *host, bool *pending, libsched_error *err);
int encoder_finish(libsched_engine_model *model, bool wait, bool *pending, libsched_error *err);
/* Forgets steps that are under way. */
void encoder_steps_drop(libsched_engine_model *model);

/* What a request asks for, from its parameters. */
enum encoder_output { ENCODER_EMBEDDING, ENCODER_TOKEN_STATES, ENCODER_SCORES };

struct encoder_request {
    bool truncate;
    enum encoder_output output;
};

int encoder_request_read(struct encoder_request *out, const libsched_engine_model *model,
                         const libsched_item *item, libsched_error *err);
/* The input of a name, or NULL. */
const libsched_tensor *encoder_input(const libsched_item *item, const char *name);

#endif
