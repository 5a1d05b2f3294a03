/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shape of a BERT encoder and what becomes of its token states, from a folder in Hugging Face
 * layout: config.json, and where sentence-transformers has written them modules.json,
 * 1_Pooling/config.json and sentence_bert_config.json.
 *
 * What the engine could not honour is refused rather than ignored: another model_type, relative
 * positions, a decoder, several poolings at once, a module that is neither transformer, pooling
 * nor normalisation.
 */
#ifndef CATALOG_ENCODER_CONFIG_H
#define CATALOG_ENCODER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

enum encoder_activation {
    ENCODER_GELU,      /* x * Phi(x), by erf: "gelu" */
    ENCODER_GELU_TANH, /* its approximation by tanh: "gelu_new", "gelu_pytorch_tanh" */
    ENCODER_RELU,
};

enum encoder_pooling {
    ENCODER_POOL_MEAN, /* of all token states, those of [CLS] and [SEP] included */
    ENCODER_POOL_CLS,  /* the state of the first token */
    ENCODER_POOL_MAX,  /* the largest of each component */
};

struct encoder_config {
    uint32_t layers;
    uint32_t hidden; /* a multiple of heads */
    uint32_t heads;
    uint32_t intermediate;
    uint32_t vocabulary;  /* rows of the word embedding */
    uint32_t positions;   /* rows of the position embedding */
    uint32_t token_types; /* rows of the token type embedding */
    double layer_norm_eps;
    enum encoder_activation activation;
    enum encoder_pooling pooling; /* mean where the folder does not say */
    bool normalize;               /* to length 1; true where the folder has no modules.json */
    uint32_t max_tokens;          /* of a text, [CLS] and [SEP] included; at most positions */
    bool do_lower_case;           /* the text is to be lowered before it is tokenized
                                   * (sentence_bert_config.json); without effect where the
                                   * tokenizer does it anyway */
};

/* Reads the configuration. Fails with LIBSCHED_EBADMODEL, naming file and key; LIBSCHED_ENOMEM,
 * LIBSCHED_ESYSTEM. */
int encoder_config_load(struct encoder_config *out, const char *folder, libsched_error *err);

/* Only whether config.json names a model_type that the encoder runs: what is cheap to know before
 * a model is loaded. Fails as above. */
int encoder_config_check_type(const char *folder, libsched_error *err);

#ifdef __cplusplus
}
#endif

#endif
