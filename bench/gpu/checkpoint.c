/* SPDX-License-Identifier: Apache-2.0 */
#include "checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/safetensors.h"
#include "gpu.h"

#define MAX_LAYERS 6u
#define TENSORS_OF_A_LAYER 16u
#define MAX_TENSORS (5u + TENSORS_OF_A_LAYER * MAX_LAYERS)

const struct checkpoint checkpoint_minilm = {6, 384, 12, 1536, 30522, 512};
const struct checkpoint checkpoint_small = {2, 64, 2, 128, 2000, 512};

static const char *const files[] = {"config.json", "vocab.txt", "tokenizer_config.json",
                                    "model.safetensors"};

struct writer {
    libsched_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][96];
    size_t n;
    uint32_t random;
};

static void path_of(char *out, size_t size, const char *folder, const char *name)
{
    if ((size_t)snprintf(out, size, "%s/%s", folder, name) >= size)
        gpu_die(folder, "the path is too long");
}

/* Uniform in (-1, 1). */
static float next(struct writer *w)
{
    w->random = w->random * 1664525u + 1013904223u;
    return (float)(w->random >> 8) / 8388608.0f - 1;
}

/* Numbers around `center` with a standard deviation of `scale`; one dimension where rows is 0. */
static void add(struct writer *w, uint64_t rows, uint64_t columns, float scale, float center,
                const char *format, ...)
{
    libsched_tensor *t = &w->tensors[w->n];
    const uint64_t n = (rows > 0 ? rows : 1) * columns;
    float *data = gpu_allocate(n, sizeof(*data));
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(w->names[w->n], sizeof(w->names[0]), format, arguments);
    va_end(arguments);
    for (uint64_t i = 0; i < n; i++)
        data[i] = center + scale * 1.732f * next(w);
    *t = (libsched_tensor){
        .name = w->names[w->n++],
        .datatype = LIBSCHED_FP32,
        .rank = rows > 0 ? 2 : 1,
        .shape = {(int64_t)(rows > 0 ? rows : columns), (int64_t)columns},
        .data = data,
        .size = n * sizeof(*data),
    };
}

static void add_norm(struct writer *w, uint64_t width, const char *base)
{
    add(w, 0, width, 0.1f, 1, "%s.weight", base);
    add(w, 0, width, 0.1f, 0, "%s.bias", base);
}

static void add_linear(struct writer *w, uint64_t outputs, uint64_t inputs, const char *base)
{
    add(w, outputs, inputs, 1.5f / sqrtf((float)inputs), 0, "%s.weight", base);
    add(w, 0, outputs, 0.1f, 0, "%s.bias", base);
}

static void add_layer(struct writer *w, const struct checkpoint *shape, uint32_t layer)
{
    static const char *const parts[] = {"query", "key", "value"};
    const uint64_t h = shape->hidden, m = shape->intermediate;
    char base[80];

    for (int i = 0; i < 3; i++) {
        snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".attention.self.%s", layer,
                 parts[i]);
        add_linear(w, h, h, base);
    }
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".attention.output.dense", layer);
    add_linear(w, h, h, base);
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".attention.output.LayerNorm", layer);
    add_norm(w, h, base);
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".intermediate.dense", layer);
    add_linear(w, m, h, base);
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".output.dense", layer);
    add_linear(w, h, m, base);
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".output.LayerNorm", layer);
    add_norm(w, h, base);
}

static FILE *create(const char *folder, const char *name)
{
    char path[4096];
    FILE *file;

    path_of(path, sizeof(path), folder, name);
    file = fopen(path, "we");
    if (file == NULL)
        gpu_die(path, strerror(errno));
    return file;
}

static void finish(FILE *file, const char *folder)
{
    if (fclose(file) != 0)
        gpu_die(folder, strerror(errno));
}

static void write_texts(const struct checkpoint *shape, const char *folder)
{
    static const char *const special[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    FILE *file = create(folder, "config.json");

    fprintf(file,
            "{\"model_type\": \"bert\", \"architectures\": [\"BertModel\"], \"hidden_size\": "
            "%" PRIu32 ", \"num_hidden_layers\": %" PRIu32 ", \"num_attention_heads\": %" PRIu32
            ", \"intermediate_size\": %" PRIu32 ", \"vocab_size\": %" PRIu32
            ", \"max_position_embeddings\": %" PRIu32
            ", \"type_vocab_size\": 2, \"layer_norm_eps\": 1e-12, \"hidden_act\": \"gelu\"}\n",
            shape->hidden, shape->layers, shape->heads, shape->intermediate, shape->vocabulary,
            shape->positions);
    finish(file, folder);
    file = create(folder, "vocab.txt");
    for (uint32_t i = 0; i < shape->vocabulary; i++) {
        if (i < 5)
            fprintf(file, "%s\n", special[i]);
        else if (i < 5 + 26)
            fprintf(file, "%c\n", (char)('a' + i - 5));
        else
            fprintf(file, "word%" PRIu32 "\n", i);
    }
    finish(file, folder);
    file = create(folder, "tokenizer_config.json");
    fprintf(file, "{\"do_lower_case\": true, \"tokenizer_class\": \"BertTokenizer\"}\n");
    finish(file, folder);
}

void checkpoint_write(const struct checkpoint *shape, const char *folder)
{
    struct writer *w = gpu_allocate(1, sizeof(*w));
    char path[4096];
    libsched_error err;

    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        gpu_die(folder, strerror(errno));
    checkpoint_remove(folder);
    if (mkdir(folder, 0777) != 0)
        gpu_die(folder, strerror(errno));
    write_texts(shape, folder);
    w->random = 1;
    add(w, shape->vocabulary, shape->hidden, 1, 0, "embeddings.word_embeddings.weight");
    add(w, shape->positions, shape->hidden, 0.3f, 0, "embeddings.position_embeddings.weight");
    add(w, 2, shape->hidden, 0.1f, 0, "embeddings.token_type_embeddings.weight");
    add_norm(w, shape->hidden, "embeddings.LayerNorm");
    for (uint32_t i = 0; i < shape->layers && i < MAX_LAYERS; i++)
        add_layer(w, shape, i);
    path_of(path, sizeof(path), folder, "model.safetensors");
    gpu_check(safetensors_write(path, w->tensors, w->n, &err), &err, path);
    for (size_t i = 0; i < w->n; i++)
        free((void *)(uintptr_t)w->tensors[i].data);
    free(w);
}

void checkpoint_remove(const char *folder)
{
    char path[4096];

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        path_of(path, sizeof(path), folder, files[i]);
        unlink(path);
    }
    rmdir(folder);
}
