/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The weights of a BERT checkpoint, found by name and brought onto the device.
 *
 * Of a split model each rank has some heads: their rows of the queries', keys' and values' weights
 * and their columns of the weight behind attention; and likewise some rows of the first
 * feed-forward weight and the same columns of the second. What those with columns give are parts of
 * a sum, to which rank 0 alone adds the bias.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/file.h"
#include "catalog/safetensors.h"
#include "engine/encoder_internal.h"

#define PATH_SIZE 192

/* What the functions below work on. */
struct loading {
    struct encoder_weights *weights;
    libsched_device *device;
    const struct safetensors *file;
    const char *prefix; /* of every name: "" or "bert." */
    uint32_t precision;
    const struct encoder_split *split;
    const struct encoder_copies *copies; /* NULL: nobody has them from anybody */
    libsched_error *err;
};

/* Some rows and columns of a tensor. */
struct part {
    uint64_t first_row, rows, first_column, columns;
};

/* The tensor prefix + name; NULL where it is not there. */
static const libsched_tensor *find(const struct loading *l, const char *name)
{
    char full[PATH_SIZE];

    snprintf(full, sizeof(full), "%s%s", l->prefix, name);
    return safetensors_find(l->file, full);
}

/* A tensor that has to be there, of rows × columns (rows 0: a vector), in a datatype that can be
 * read. */
static const libsched_tensor *require(const struct loading *l, const char *name, uint64_t rows,
                                      uint64_t columns)
{
    const libsched_tensor *t = find(l, name);
    const uint32_t rank = rows == 0 ? 1 : 2;

    if (t == NULL) {
        libsched_error_set(l->err, LIBSCHED_EBADMODEL,
                           SAFETENSORS_WEIGHTS " has no tensor \"%s%s\"", l->prefix, name);
        return NULL;
    }
    if (t->rank != rank || (uint64_t)t->shape[rank - 1] != columns ||
        (rank == 2 && (uint64_t)t->shape[0] != rows)) {
        char got[64] = "";
        for (uint32_t i = 0; i < t->rank; i++) {
            size_t used = strlen(got);
            snprintf(got + used, sizeof(got) - used, "%s%" PRId64, i > 0 ? ", " : "", t->shape[i]);
        }
        if (rank == 1)
            libsched_error_set(l->err, LIBSCHED_EBADMODEL,
                               "tensor \"%s%s\" is [%s], config.json asks for [%" PRIu64 "]",
                               l->prefix, name, got, columns);
        else
            libsched_error_set(l->err, LIBSCHED_EBADMODEL,
                               "tensor \"%s%s\" is [%s], config.json asks for [%" PRIu64
                               ", %" PRIu64 "]",
                               l->prefix, name, got, rows, columns);
        return NULL;
    }
    if (t->datatype != LIBSCHED_FP32 && t->datatype != LIBSCHED_FP16 &&
        t->datatype != LIBSCHED_BF16) {
        libsched_error_set(l->err, LIBSCHED_EBADMODEL,
                           "tensor \"%s%s\" is %s: FP32, FP16 and BF16 can be read", l->prefix,
                           name, libsched_datatype_name(t->datatype));
        return NULL;
    }
    return t;
}

static int create(struct loading *l, libsched_device_weight **out, uint32_t kind, uint32_t datatype,
                  uint64_t rows, uint64_t columns, const void *data)
{
    const libsched_device_weight_args args = {
        .struct_size = sizeof(args),
        .kind = kind,
        .datatype = kind == LIBSCHED_WEIGHT_VECTOR ? LIBSCHED_FP32 : l->precision,
        .source_datatype = datatype,
        .rows = rows,
        .columns = columns,
        .data = data,
    };

    l->weights->bytes += rows * columns * libsched_datatype_size(args.datatype);
    if (l->copies != NULL)
        return l->device->driver->weight_share(l->device, l->copies->communicator, 0, out, &args,
                                               l->err);
    return l->device->driver->weight_create(l->device, out, &args, l->err);
}

/* Its `rows` and `columns` are those of the whole tensor, of which a rank has a share. */
static struct part share_rows(const struct loading *l, uint64_t rows, uint64_t columns)
{
    const uint64_t share = rows / l->split->n_ranks;

    return (struct part){l->split->rank * share, share, 0, columns};
}

static struct part share_columns(const struct loading *l, uint64_t rows, uint64_t columns)
{
    const uint64_t share = columns / l->split->n_ranks;

    return (struct part){0, rows, l->split->rank * share, share};
}

/* Copies a part of a tensor of `stride` columns: dense, one row behind the other. */
static void copy_part(unsigned char *to, const libsched_tensor *t, uint64_t stride,
                      const struct part *part)
{
    const size_t element = libsched_datatype_size(t->datatype);
    const size_t row = part->columns * element;
    const unsigned char *from =
        (const unsigned char *)t->data + (part->first_row * stride + part->first_column) * element;

    for (uint64_t r = 0; r < part->rows; r++)
        memcpy(to + r * row, from + r * stride * element, row);
}

/* Others have the data from rank 0. */
static bool has_data(const struct loading *l)
{
    return l->copies == NULL || l->copies->rank == 0;
}

static int create_part(struct loading *l, libsched_device_weight **out, uint32_t kind,
                       const libsched_tensor *t, uint64_t stride, const struct part *part)
{
    const size_t element = libsched_datatype_size(t->datatype);
    unsigned char *copy;
    int status;

    /* Whole rows lie together already. */
    if (part->columns == stride)
        return create(l, out, kind, t->datatype, part->rows, part->columns,
                      has_data(l)
                          ? (const unsigned char *)t->data + part->first_row * stride * element
                          : NULL);
    copy = malloc(part->rows * part->columns * element);
    if (copy == NULL)
        return libsched_error_set(l->err, LIBSCHED_ENOMEM, "no memory for a layer's weights");
    copy_part(copy, t, stride, part);
    status = create(l, out, kind, t->datatype, part->rows, part->columns, copy);
    free(copy);
    return status;
}

static int load_vector(struct loading *l, libsched_device_weight **out, const char *name,
                       uint64_t columns)
{
    const libsched_tensor *t = require(l, name, 0, columns);

    if (t == NULL)
        return LIBSCHED_EBADMODEL;
    return create(l, out, LIBSCHED_WEIGHT_VECTOR, t->datatype, 1, columns, t->data);
}

static int load_table(struct loading *l, libsched_device_weight **out, const char *name,
                      uint64_t rows, uint64_t columns)
{
    const libsched_tensor *t = require(l, name, rows, columns);

    if (t == NULL)
        return LIBSCHED_EBADMODEL;
    return create(l, out, LIBSCHED_WEIGHT_TABLE, t->datatype, rows, columns, t->data);
}

/* base + ".weight" and base + ".bias"; checkpoints that come from TensorFlow say gamma and beta. */
static int load_norm(struct loading *l, struct encoder_norm *out, const char *base,
                     uint64_t columns)
{
    char name[PATH_SIZE];
    bool gamma;
    int status;

    snprintf(name, sizeof(name), "%s.gamma", base);
    gamma = find(l, name) != NULL;
    snprintf(name, sizeof(name), "%s.%s", base, gamma ? "gamma" : "weight");
    status = load_vector(l, &out->gain, name, columns);
    snprintf(name, sizeof(name), "%s.%s", base, gamma ? "beta" : "bias");
    if (status == LIBSCHED_OK)
        status = load_vector(l, &out->shift, name, columns);
    return status;
}

/* Split by its inputs, or else by its outputs. */
static int load_linear(struct loading *l, struct encoder_linear *out, const char *base,
                       uint64_t outputs, uint64_t inputs, bool by_inputs)
{
    const struct part part =
        by_inputs ? share_columns(l, outputs, inputs) : share_rows(l, outputs, inputs);
    char name[PATH_SIZE];
    const libsched_tensor *weight, *bias;
    int status;

    snprintf(name, sizeof(name), "%s.weight", base);
    weight = require(l, name, outputs, inputs);
    snprintf(name, sizeof(name), "%s.bias", base);
    bias = weight != NULL ? require(l, name, 0, outputs) : NULL;
    if (bias == NULL)
        return LIBSCHED_EBADMODEL;
    status = create_part(l, &out->weight, LIBSCHED_WEIGHT_LINEAR, weight, inputs, &part);
    if (status == LIBSCHED_OK && (!by_inputs || l->split->rank == 0)) {
        const struct part shown = {0, 1, part.first_row, part.rows};
        status = create_part(l, &out->bias, LIBSCHED_WEIGHT_VECTOR, bias, outputs, &shown);
    }
    return status;
}

/* One matrix (columns = inputs) or vector (inputs = 0) from the three of queries, keys and values
 * of a layer, one below the other; of a rank's heads. */
static int load_stacked(struct loading *l, libsched_device_weight **out, uint32_t layer,
                        const char *suffix, uint64_t outputs, uint64_t inputs)
{
    static const char *const parts[] = {"query", "key", "value"};
    const uint64_t columns = inputs > 0 ? inputs : 1;
    const struct part part = share_rows(l, outputs, columns);
    const libsched_tensor *tensors[3];
    char name[PATH_SIZE];
    unsigned char *stacked;
    size_t size;
    int status;

    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "encoder.layer.%" PRIu32 ".attention.self.%s.%s", layer,
                 parts[i], suffix);
        tensors[i] = inputs > 0 ? require(l, name, outputs, inputs) : require(l, name, 0, outputs);
        if (tensors[i] == NULL)
            return LIBSCHED_EBADMODEL;
        if (tensors[i]->datatype != tensors[0]->datatype)
            return libsched_error_set(l->err, LIBSCHED_EBADMODEL,
                                      "tensor \"%s%s\" is %s, but that of the queries is %s",
                                      l->prefix, name, libsched_datatype_name(tensors[i]->datatype),
                                      libsched_datatype_name(tensors[0]->datatype));
    }
    size = part.rows * columns * libsched_datatype_size(tensors[0]->datatype);
    stacked = malloc(3 * size);
    if (stacked == NULL)
        return libsched_error_set(l->err, LIBSCHED_ENOMEM, "no memory for a layer's weights");
    for (int i = 0; i < 3 && has_data(l); i++)
        copy_part(stacked + (size_t)i * size, tensors[i], columns, &part);
    if (inputs > 0)
        status = create(l, out, LIBSCHED_WEIGHT_LINEAR, tensors[0]->datatype, 3 * part.rows, inputs,
                        stacked);
    else
        status =
            create(l, out, LIBSCHED_WEIGHT_VECTOR, tensors[0]->datatype, 1, 3 * part.rows, stacked);
    free(stacked);
    return status;
}

static int load_layer(struct loading *l, const struct encoder_config *config, uint32_t layer)
{
    struct encoder_layer *to = &l->weights->layers[layer];
    const uint64_t hidden = config->hidden, intermediate = config->intermediate;
    char base[PATH_SIZE];
    int status = load_stacked(l, &to->qkv.weight, layer, "weight", hidden, hidden);

    if (status == LIBSCHED_OK)
        status = load_stacked(l, &to->qkv.bias, layer, "bias", hidden, 0);
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".attention.output.dense", layer);
    if (status == LIBSCHED_OK)
        status = load_linear(l, &to->attention, base, hidden, hidden, true);
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".attention.output.LayerNorm", layer);
    if (status == LIBSCHED_OK)
        status = load_norm(l, &to->attention_norm, base, hidden);
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".intermediate.dense", layer);
    if (status == LIBSCHED_OK)
        status = load_linear(l, &to->up, base, intermediate, hidden, false);
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".output.dense", layer);
    if (status == LIBSCHED_OK)
        status = load_linear(l, &to->down, base, hidden, intermediate, true);
    snprintf(base, sizeof(base), "encoder.layer.%" PRIu32 ".output.LayerNorm", layer);
    if (status == LIBSCHED_OK)
        status = load_norm(l, &to->output_norm, base, hidden);
    return status;
}

static int load_all(struct loading *l, const struct encoder_config *config)
{
    struct encoder_weights *to = l->weights;
    const uint64_t hidden = config->hidden;
    int status;

    l->prefix = "";
    if (find(l, "embeddings.word_embeddings.weight") == NULL &&
        safetensors_find(l->file, "bert.embeddings.word_embeddings.weight") != NULL)
        l->prefix = "bert.";

    to->layers = calloc(config->layers, sizeof(*to->layers));
    if (to->layers == NULL)
        return libsched_error_set(l->err, LIBSCHED_ENOMEM, "no memory for a model");
    to->n_layers = config->layers;
    status =
        load_table(l, &to->words, "embeddings.word_embeddings.weight", config->vocabulary, hidden);
    if (status == LIBSCHED_OK)
        status = load_table(l, &to->positions, "embeddings.position_embeddings.weight",
                            config->positions, hidden);
    if (status == LIBSCHED_OK && config->token_types > 0)
        status = load_table(l, &to->types, "embeddings.token_type_embeddings.weight",
                            config->token_types, hidden);
    if (status == LIBSCHED_OK)
        status = load_norm(l, &to->norm, "embeddings.LayerNorm", hidden);
    for (uint32_t i = 0; status == LIBSCHED_OK && i < config->layers; i++)
        status = load_layer(l, config, i);
    return status;
}

int encoder_weights_load(struct encoder_weights *out, libsched_device *device, const char *folder,
                         const struct encoder_config *config, uint32_t precision,
                         const struct encoder_split *split, const struct encoder_copies *copies,
                         libsched_error *err)
{
    struct loading l = {
        .weights = out, .device = device, .precision = precision, .split = split, .err = err};
    struct safetensors *file;
    char *path = catalog_file_join(folder, SAFETENSORS_WEIGHTS);
    bool share;
    int status;

    memset(out, 0, sizeof(*out));
    if (path == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a path");
    status = encoder_copies_agree(&share, device, copies, path, err);
    l.copies = share ? copies : NULL;
    if (status == LIBSCHED_OK)
        status = has_data(&l) ? safetensors_open(&file, path, err)
                              : safetensors_open_header(&file, path, err);
    free(path);
    if (status != LIBSCHED_OK)
        return status;
    l.file = file;
    status = load_all(&l, config);
    /* What did not come is found out now, not in somebody's batch. */
    if (status == LIBSCHED_OK && share)
        status = device->driver->synchronize(device, err);
    safetensors_close(file);
    if (status != LIBSCHED_OK)
        encoder_weights_free(out, device);
    return status;
}

static void free_linear(struct encoder_linear *linear, libsched_device *device)
{
    device->driver->weight_destroy(device, linear->weight);
    device->driver->weight_destroy(device, linear->bias);
}

static void free_norm(struct encoder_norm *norm, libsched_device *device)
{
    device->driver->weight_destroy(device, norm->gain);
    device->driver->weight_destroy(device, norm->shift);
}

void encoder_weights_free(struct encoder_weights *weights, libsched_device *device)
{
    for (uint32_t i = 0; i < weights->n_layers; i++) {
        struct encoder_layer *layer = &weights->layers[i];
        free_linear(&layer->qkv, device);
        free_linear(&layer->attention, device);
        free_linear(&layer->up, device);
        free_linear(&layer->down, device);
        free_norm(&layer->attention_norm, device);
        free_norm(&layer->output_norm, device);
    }
    free(weights->layers);
    free_norm(&weights->norm, device);
    device->driver->weight_destroy(device, weights->words);
    device->driver->weight_destroy(device, weights->positions);
    device->driver->weight_destroy(device, weights->types);
    memset(weights, 0, sizeof(*weights));
}
