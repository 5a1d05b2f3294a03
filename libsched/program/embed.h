/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program "embed": the vectors of a file of texts, by an encoder on all devices of the job.
 *
 * Parameters: model, the encoder's folder; input, a file of texts or token ids (embed_data.h);
 * output, the .safetensors file to make, with the tensor "embeddings", FP32 [texts, components], a
 * row for each text in the input's order; split ("data" or "tensor"); batch, the tokens that are
 * computed together, about (the device's usual); precision ("f32", "bf16" or "auto"; the model's
 * own). The paths are absolute, on the host.
 * Results: path, texts, width, batches.
 *
 * split "data": each device has the whole model, and takes every k-th batch. The vectors are those
 * of one device, to the bit, on CPU devices.
 * split "tensor": each device has 1/k of every layer (encoder.h), and all compute each batch
 * together: for models that one device has no room for. k has to divide the number of heads and the
 * feed-forward width.
 *
 * A text that is longer than the model takes is cut, as it is in a request; token ids are not.
 */
#ifndef PROGRAM_EMBED_H
#define PROGRAM_EMBED_H

#include <libsched/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

const libsched_program *program_embed(void);

#ifdef __cplusplus
}
#endif

#endif
