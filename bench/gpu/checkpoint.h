/* SPDX-License-Identifier: Apache-2.0 */
/* A BERT of random weights as a folder in Hugging Face layout, where no real one is there. */
#ifndef BENCH_GPU_CHECKPOINT_H
#define BENCH_GPU_CHECKPOINT_H

#include <stdint.h>

struct checkpoint {
    uint32_t layers, hidden, heads, intermediate, vocabulary, positions;
};

/* Of MiniLM's shape; and of one that is computed quickly by whatever imitates a GPU. */
extern const struct checkpoint checkpoint_minilm, checkpoint_small;

/* Writes it to a folder, which is made. Whatever fails ends the program. */
void checkpoint_write(const struct checkpoint *shape, const char *folder);
/* Removes what was written, and the folder. */
void checkpoint_remove(const char *folder);

#endif
