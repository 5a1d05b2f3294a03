/* SPDX-License-Identifier: Apache-2.0 */
#include "catalog/encoder_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "catalog/json.h"

#define CONFIG "config.json"
#define MODULES "modules.json"
#define SENTENCE "sentence_bert_config.json"
#define DEFAULT_POOLING_FOLDER "1_Pooling"

/* Far above any BERT, and low enough that no product of two of them overflows 64 bits. */
#define MAX_LAYERS 256
#define MAX_HIDDEN 65536
#define MAX_HEADS 1024
#define MAX_INTERMEDIATE 262144
#define MAX_VOCABULARY (1u << 24)
#define MAX_POSITIONS (1u << 20)
#define MAX_TOKEN_TYPES 1024

/* What a model without a length of its own is cut to, where its positions reach so far. */
#define DEFAULT_MAX_TOKENS 512

static int get_u32(const json_t *object, const char *file, const char *key, uint32_t min,
                   uint32_t max, uint32_t *out, libsched_error *err)
{
    uint64_t value = 0;
    int status = catalog_json_require(object, file, key, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_uint(object, file, key, min, max, &value, err);
    if (status == LIBSCHED_OK)
        *out = (uint32_t)value;
    return status;
}

static int get_sizes(struct encoder_config *out, const json_t *root, libsched_error *err)
{
    const struct {
        const char *key;
        uint32_t max;
        uint32_t *value;
    } sizes[] = {
        {"num_hidden_layers", MAX_LAYERS, &out->layers},
        {"hidden_size", MAX_HIDDEN, &out->hidden},
        {"num_attention_heads", MAX_HEADS, &out->heads},
        {"intermediate_size", MAX_INTERMEDIATE, &out->intermediate},
        {"vocab_size", MAX_VOCABULARY, &out->vocabulary},
        {"max_position_embeddings", MAX_POSITIONS, &out->positions},
        {"type_vocab_size", MAX_TOKEN_TYPES, &out->token_types},
    };
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int status = get_u32(root, CONFIG, sizes[i].key, 1, sizes[i].max, sizes[i].value, err);
        if (status != LIBSCHED_OK)
            return status;
    }
    if (out->hidden % out->heads != 0)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  CONFIG ": \"hidden_size\" %" PRIu32
                                         " is not a multiple of \"num_attention_heads\" %" PRIu32,
                                  out->hidden, out->heads);
    return LIBSCHED_OK;
}

static int get_activation(struct encoder_config *out, const json_t *root, libsched_error *err)
{
    const char *name = "gelu";
    int status = catalog_json_string(root, CONFIG, "hidden_act", &name, err);
    if (status != LIBSCHED_OK)
        return status;
    if (strcmp(name, "gelu") == 0)
        out->activation = ENCODER_GELU;
    else if (strcmp(name, "gelu_new") == 0 || strcmp(name, "gelu_pytorch_tanh") == 0)
        out->activation = ENCODER_GELU_TANH;
    else if (strcmp(name, "relu") == 0)
        out->activation = ENCODER_RELU;
    else {
        char quoted[CATALOG_QUOTE_SIZE];
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  CONFIG ": \"hidden_act\" is \"%s\", supported are gelu, "
                                         "gelu_new, gelu_pytorch_tanh and relu",
                                  catalog_quote(quoted, name));
    }
    return LIBSCHED_OK;
}

/* What would make the model another than the one we compute. */
static int refuse_variants(const json_t *root, libsched_error *err)
{
    const char *positions = "absolute";
    bool decoder = false, cross = false;
    int status = catalog_json_string(root, CONFIG, "position_embedding_type", &positions, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_bool(root, CONFIG, "is_decoder", &decoder, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_bool(root, CONFIG, "add_cross_attention", &cross, err);
    if (status != LIBSCHED_OK)
        return status;
    char quoted[CATALOG_QUOTE_SIZE];
    if (strcmp(positions, "absolute") != 0)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  CONFIG ": \"position_embedding_type\" is \"%s\", only absolute "
                                         "is supported",
                                  catalog_quote(quoted, positions));
    if (decoder || cross)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  CONFIG ": \"%s\" is true, only encoders are supported",
                                  decoder ? "is_decoder" : "add_cross_attention");
    return LIBSCHED_OK;
}

static int check_type(const json_t *root, libsched_error *err)
{
    const char *type = NULL;
    int status = catalog_json_require(root, CONFIG, "model_type", err);
    if (status == LIBSCHED_OK)
        status = catalog_json_string(root, CONFIG, "model_type", &type, err);
    if (status != LIBSCHED_OK)
        return status;
    char quoted[CATALOG_QUOTE_SIZE];
    if (strcmp(type, "bert") != 0)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  CONFIG
                                  ": \"model_type\" is \"%s\", the encoder runs only \"bert\""
                                  " (MiniLM, BGE and E5 in English are of that type)",
                                  catalog_quote(quoted, type));
    return LIBSCHED_OK;
}

static int load_transformer(struct encoder_config *out, const char *folder, libsched_error *err)
{
    json_t *root;
    int status = catalog_json_load(&root, folder, CONFIG, CATALOG_JSON_MAX_SIZE, err);
    if (status != LIBSCHED_OK)
        return status;
    out->layer_norm_eps = 1e-12;
    status = check_type(root, err);
    if (status == LIBSCHED_OK)
        status = get_sizes(out, root, err);
    if (status == LIBSCHED_OK)
        status =
            catalog_json_real(root, CONFIG, "layer_norm_eps", 1e-30, 1, &out->layer_norm_eps, err);
    if (status == LIBSCHED_OK)
        status = get_activation(out, root, err);
    if (status == LIBSCHED_OK)
        status = refuse_variants(root, err);
    json_decref(root);
    return status;
}

/* ------------------------------------------------------------------------------------- pooling */

static int load_pooling(struct encoder_config *out, const char *folder, const char *path,
                        libsched_error *err)
{
    static const struct {
        const char *key;
        int pooling; /* -1: not supported */
    } modes[] = {
        {"pooling_mode_cls_token", ENCODER_POOL_CLS},
        {"pooling_mode_mean_tokens", ENCODER_POOL_MEAN},
        {"pooling_mode_max_tokens", ENCODER_POOL_MAX},
        {"pooling_mode_mean_sqrt_len_tokens", -1},
        {"pooling_mode_weightedmean_tokens", -1},
        {"pooling_mode_lasttoken", -1},
    };
    char file[LIBSCHED_MESSAGE_SIZE];
    snprintf(file, sizeof(file), "%s/" CONFIG, path);
    json_t *root;
    int status = catalog_json_load_optional(&root, folder, file, CATALOG_JSON_MAX_SIZE, err);
    if (status != LIBSCHED_OK || root == NULL)
        return status;

    unsigned n = 0;
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]) && status == LIBSCHED_OK; i++) {
        bool on = false;
        status = catalog_json_bool(root, file, modes[i].key, &on, err);
        if (!on || status != LIBSCHED_OK)
            continue;
        n++;
        if (modes[i].pooling < 0)
            status = libsched_error_set(err, LIBSCHED_EBADMODEL,
                                        "%s: \"%s\" is not supported, only mean, cls and max are",
                                        file, modes[i].key);
        else
            out->pooling = (enum encoder_pooling)modes[i].pooling;
    }
    if (status == LIBSCHED_OK && n != 1)
        status = libsched_error_set(err, LIBSCHED_EBADMODEL,
                                    "%s: %u pooling modes are true, expected exactly one", file, n);
    uint64_t width = out->hidden;
    if (status == LIBSCHED_OK)
        status = catalog_json_uint(root, file, "word_embedding_dimension", out->hidden, out->hidden,
                                   &width, err);
    json_decref(root);
    return status;
}

/* ------------------------------------------------------------------------------------- modules */

/* The last part of a dotted class name. */
static const char *class_of(const char *type)
{
    const char *dot = strrchr(type, '.');
    return dot != NULL ? dot + 1 : type;
}

/* One entry of modules.json: "type" and "path". Points `*pooling` at a pooling's folder. */
static int read_module(struct encoder_config *out, const json_t *module, size_t index,
                       const char **pooling, libsched_error *err)
{
    const char *type = json_string_value(json_object_get(module, "type"));
    const char *path = json_string_value(json_object_get(module, "path"));
    char quoted[CATALOG_QUOTE_SIZE];
    if (type == NULL || path == NULL)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MODULES ": module %zu has no \"type\" or no \"path\"", index);
    const char *class = class_of(type);
    if (strcmp(class, "Transformer") == 0) {
        if (index != 0 || *path != '\0')
            return libsched_error_set(
                err, LIBSCHED_EBADMODEL,
                MODULES
                ": the transformer has to be the first module, and its files in the model's "
                "own folder; here it is module %zu in \"%s\"",
                index, catalog_quote(quoted, path));
    } else if (strcmp(class, "Pooling") == 0) {
        if (*path == '\0' || strchr(path, '/') != NULL || *path == '.' || strlen(path) > 64)
            return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                      MODULES ": pooling in \"%s\", expected a folder's name",
                                      catalog_quote(quoted, path));
        *pooling = path;
    } else if (strcmp(class, "Normalize") == 0) {
        out->normalize = true;
    } else {
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  MODULES ": module %zu is a \"%s\", supported are Transformer, "
                                          "Pooling and Normalize",
                                  index, catalog_quote(quoted, class));
    }
    return LIBSCHED_OK;
}

static int load_modules(struct encoder_config *out, const char *folder, libsched_error *err)
{
    json_t *root;
    int status =
        catalog_json_load_optional_array(&root, folder, MODULES, CATALOG_JSON_MAX_SIZE, err);
    if (status != LIBSCHED_OK)
        return status;
    const char *pooling = DEFAULT_POOLING_FOLDER;
    out->normalize = root == NULL;
    for (size_t i = 0; i < json_array_size(root) && status == LIBSCHED_OK; i++)
        status = read_module(out, json_array_get(root, i), i, &pooling, err);
    if (status == LIBSCHED_OK)
        status = load_pooling(out, folder, pooling, err);
    json_decref(root);
    return status;
}

/* -------------------------------------------------------------------------------------- length */

static int load_length(struct encoder_config *out, const char *folder, libsched_error *err)
{
    json_t *root;
    int status = catalog_json_load_optional(&root, folder, SENTENCE, CATALOG_JSON_MAX_SIZE, err);
    if (status != LIBSCHED_OK)
        return status;
    uint64_t length = out->positions < DEFAULT_MAX_TOKENS ? out->positions : DEFAULT_MAX_TOKENS;
    /* [CLS] and [SEP] take two. */
    status = catalog_json_uint(root, SENTENCE, "max_seq_length", 2, out->positions, &length, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_bool(root, SENTENCE, "do_lower_case", &out->do_lower_case, err);
    out->max_tokens = (uint32_t)length;
    json_decref(root);
    return status;
}

int encoder_config_load(struct encoder_config *out, const char *folder, libsched_error *err)
{
    memset(out, 0, sizeof(*out));
    out->pooling = ENCODER_POOL_MEAN;
    int status = load_transformer(out, folder, err);
    if (status == LIBSCHED_OK)
        status = load_modules(out, folder, err);
    if (status == LIBSCHED_OK)
        status = load_length(out, folder, err);
    return status;
}

int encoder_config_check_type(const char *folder, libsched_error *err)
{
    json_t *root;
    int status = catalog_json_load(&root, folder, CONFIG, CATALOG_JSON_MAX_SIZE, err);
    if (status != LIBSCHED_OK)
        return status;
    status = check_type(root, err);
    json_decref(root);
    return status;
}
