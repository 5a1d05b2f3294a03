/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine "encoder": text embeddings by models of the BERT family (MiniLM, BGE, E5), from a
 * folder in Hugging Face's layout.
 *
 * Inputs, exactly one of:
 *   text            BYTES [n]          UTF-8, tokenized by prepare()
 *   input_ids       INT32/INT64 [n, l] token ids, special tokens included
 *     attention_mask  INT32/INT64 [n, l] ones and then zeros in each row; without it all count
 * Outputs:
 *   embedding       FP32 [n, hidden]
 * or, with the request's parameter output = "token_states":
 *   token_states    FP32 [tokens, hidden]  the last layer, the sequences one after the other
 *   lengths         INT32 [n]              tokens of each
 * or, where the model has a head (encoder_head.h) and the request does not ask for another output,
 * or for output = "scores":
 *   scores          FP32 [n, classes]      that add up to 1
 *   label           BYTES [n]              the name of the class with the largest score
 *
 * A request's parameters: output ("embedding", "token_states" or "scores"), truncate (true: a text
 * of more than max_length tokens is cut; false: it is refused. Token ids are never cut).
 *
 * A model's parameters: precision ("f32", "bf16", "auto": bf16 where the device computes it
 * natively), max_length (tokens of a sequence), pooling ("mean", "cls", "max"), normalize (to
 * length 1), max_batch_requests, max_batch_units, max_request_units. What is not given comes from
 * the model's folder.
 *
 * Units: token equivalents. A sequence of S tokens costs S + S² / (2 hidden + intermediate): the
 * linear layers take 8 hidden² + 4 hidden intermediate operations a token and layer, attention
 * 4 hidden S.
 *
 * A step packs the sequences of all its items, without padding, and computes them in chunks, so
 * that its memory is bounded whatever a request's size.
 */
#ifndef ENGINE_ENCODER_H
#define ENGINE_ENCODER_H

#include <libsched/engine.h>

#include "catalog/encoder_config.h"

#ifdef __cplusplus
extern "C" {
#endif

const libsched_engine *engine_encoder(void);

/*
 * A model that several devices compute together, each with 1/n of every layer's heads and
 * feed-forward width: so each holds 1/n of the layers' weights, and the tables, the norms and the
 * token states whole. step() and warmup() are then collective, as what a communicator does is: all
 * ranks call them with the same items, and get the same answers.
 */
struct encoder_split {
    uint32_t rank, n_ranks;
    struct libsched_device_communicator *communicator; /* of these ranks; NULL where n_ranks is 1 */
};

/* Whether a model can be split so: LIBSCHED_EINVAL says the numbers that do not go together. */
int encoder_split_check(const struct encoder_config *config, uint32_t n_ranks, libsched_error *err);
/* As the engine's open(), for one rank. `split` is copied. */
int encoder_open_split(libsched_engine_model **out, const libsched_engine_open_args *args,
                       const struct encoder_split *split, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
