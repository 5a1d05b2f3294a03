/* SPDX-License-Identifier: Apache-2.0 */
/* The arguments of operations, in the order in which one thinks of them. */
#ifndef TESTS_DEVICE_ARGUMENTS_H
#define TESTS_DEVICE_ARGUMENTS_H

#include <libsched/device.h>

namespace gpu_sched_test
{

inline libsched_device_embed_args
embed_args(const libsched_device_sequences *sequences, const libsched_device_weight *words,
           const libsched_device_weight *positions, const libsched_device_weight *gain,
           const libsched_device_weight *shift, libsched_device_buffer *output,
           libsched_device_buffer *output_bf16 = nullptr)
{
    libsched_device_embed_args args = {};
    args.struct_size = sizeof(args);
    args.sequences = sequences;
    args.words = words;
    args.positions = positions;
    args.gain = gain;
    args.shift = shift;
    args.epsilon = 1e-5f;
    args.output = output;
    args.output_bf16 = output_bf16;
    return args;
}

inline libsched_device_linear_args linear_args(uint64_t rows, const libsched_device_buffer *input,
                                               const libsched_device_weight *weight,
                                               const libsched_device_weight *bias,
                                               uint32_t activation, bool accumulate,
                                               libsched_device_buffer *output)
{
    libsched_device_linear_args args = {};
    args.struct_size = sizeof(args);
    args.rows = rows;
    args.input = input;
    args.weight = weight;
    args.bias = bias;
    args.activation = activation;
    args.accumulate = accumulate;
    args.output = output;
    return args;
}

/* In place. */
inline libsched_device_norm_args norm_args(uint64_t rows, libsched_device_buffer *states,
                                           const libsched_device_weight *gain,
                                           const libsched_device_weight *shift,
                                           libsched_device_buffer *output_bf16 = nullptr)
{
    libsched_device_norm_args args = {};
    args.struct_size = sizeof(args);
    args.rows = rows;
    args.input = states;
    args.gain = gain;
    args.shift = shift;
    args.epsilon = 1e-5f;
    args.output = states;
    args.output_bf16 = output_bf16;
    return args;
}

inline libsched_device_attention_args attention_args(const libsched_device_sequences *sequences,
                                                     const libsched_device_buffer *qkv,
                                                     uint32_t heads, uint32_t head_size,
                                                     float scale, libsched_device_buffer *output)
{
    libsched_device_attention_args args = {};
    args.struct_size = sizeof(args);
    args.sequences = sequences;
    args.qkv = qkv;
    args.heads = heads;
    args.head_size = head_size;
    args.scale = scale;
    args.output = output;
    return args;
}

inline libsched_device_pool_args pool_args(const libsched_device_sequences *sequences,
                                           const libsched_device_buffer *input, uint32_t pooling,
                                           bool normalize, libsched_device_buffer *output)
{
    libsched_device_pool_args args = {};
    args.struct_size = sizeof(args);
    args.sequences = sequences;
    args.input = input;
    args.pooling = pooling;
    args.normalize = normalize;
    args.output = output;
    return args;
}

} // namespace gpu_sched_test

#endif
