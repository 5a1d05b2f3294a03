/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program "train": a classifier on top of a frozen encoder, by stochastic gradient descent on
 * the softmax loss, the examples shared between the ranks. It writes a model that can be loaded at
 * once.
 *
 * Parameters: model, the encoder's folder; data, a file of {"text": …, "label": …} lines
 * (train_data.h); out, the folder to make; epochs (20), learning_rate (1.0), batch (32 examples),
 * seed (0) of the order of the examples. The paths are absolute, on the host.
 * Results: path, classes, examples; loss (mean) and accuracy over the last epoch, on the examples
 * themselves as they were come to; batches.
 *
 * The same parameters give the same weights on any number of devices of a kind: texts are embedded
 * in batches that do not depend on the number of ranks, and gradients are added up exactly
 * (train_softmax.h).
 */
#ifndef PROGRAM_TRAIN_H
#define PROGRAM_TRAIN_H

#include <libsched/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

const libsched_program *program_train(void);

#ifdef __cplusplus
}
#endif

#endif
