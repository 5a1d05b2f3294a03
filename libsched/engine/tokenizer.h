/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tokenizer of BERT models: text in, token ids out.
 *
 * Read from a model's folder: tokenizer.json as Hugging Face's tokenizers writes it (a WordPiece
 * model with BertNormalizer and BertPreTokenizer), or where there is none, vocab.txt with
 * tokenizer_config.json. The ids are those that Hugging Face's tokenizers gives, except that
 * letters added to Unicode after the version of the installed utf8proc are not lowered.
 *
 *   text -> added tokens such as "[SEP]" cut out -> controls removed, ideographs set apart,
 *   decomposed (NFD) and stripped of accents, lowered -> split at spaces and punctuation
 *   -> each word into the longest pieces that the vocabulary has, or [UNK]
 *   -> [CLS] pieces [SEP], cut to the length asked for
 *
 * (Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018; WordPiece's
 * greedy form: Wu et al., "Google's Neural Machine Translation System", 2016.)
 *
 * The sections "truncation" and "padding" of tokenizer.json are not applied: the length is the
 * caller's, and sequences are packed. A tokenizer does not change once it is open, so that any
 * number of threads may encode with it, each with a scratch of its own.
 */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tokenizer;
struct tokenizer_scratch;

/* Opens the tokenizer in a folder. `*out` is the caller's, to be closed after its scratches. Fails
 * with LIBSCHED_EBADMODEL, naming file and key; LIBSCHED_ENOMEM; LIBSCHED_ESYSTEM. */
int tokenizer_open(struct tokenizer **out, const char *folder, libsched_error *err);
void tokenizer_close(struct tokenizer *tokenizer);

/* Working memory for one thread, usable with this tokenizer only: a few KiB. It grows with the
 * text only where the tokenizer has added tokens that are sought in normalized text. */
int tokenizer_scratch_open(struct tokenizer_scratch **out, const struct tokenizer *tokenizer,
                           libsched_error *err);
void tokenizer_scratch_close(struct tokenizer_scratch *scratch);

/*
 * Encodes `length` bytes of UTF-8 into at most `max_tokens` ids, [CLS] and [SEP] included (so at
 * least 2). `ids` has room for max_tokens; `*n_ids` is set to how many there are. Where the text
 * has more tokens, its first ones are kept between [CLS] and [SEP] and `*truncated` is set; the
 * time taken then depends on what is kept, apart from the check of the text.
 *
 * LIBSCHED_EINVAL: max_tokens below 2, or the text is not UTF-8 (the message names the byte).
 * LIBSCHED_ENOMEM: see the scratch.
 */
int tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                     const char *text, size_t length, uint32_t max_tokens, int32_t *ids,
                     uint32_t *n_ids, bool *truncated, libsched_error *err);

/* Ids with a meaning of their own; -1 where the vocabulary has no such token (pad, mask). */
struct tokenizer_specials {
    int32_t cls, sep, unk, pad, mask;
};
const struct tokenizer_specials *tokenizer_special_ids(const struct tokenizer *tokenizer);

/* Every id is below it: the rows that a word embedding has to have. */
uint32_t tokenizer_id_limit(const struct tokenizer *tokenizer);

#ifdef __cplusplus
}
#endif

#endif
