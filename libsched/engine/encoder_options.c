/* SPDX-License-Identifier: Apache-2.0 */
/* The parameters of a model, and those of a request. */
#include <inttypes.h>
#include <string.h>

#include "engine/encoder_internal.h"

/* 1 Mi token equivalents: thousands of texts in one request. */
#define DEFAULT_MAX_REQUEST_UNITS ((uint64_t)1 << 20)
/* [CLS] and [SEP]. */
#define MIN_LENGTH 2

static const struct {
    const char *name;
    uint32_t value;
} poolings[] = {
    {"mean", LIBSCHED_POOLING_MEAN},
    {"cls", LIBSCHED_POOLING_CLS},
    {"max", LIBSCHED_POOLING_MAX},
};

const char *encoder_pooling_name(uint32_t pooling)
{
    for (size_t i = 0; i < sizeof(poolings) / sizeof(poolings[0]); i++)
        if (poolings[i].value == pooling)
            return poolings[i].name;
    return "unknown";
}

static int read_bool(const libsched_parameter *p, bool *out, int status, libsched_error *err)
{
    if (p->type != LIBSCHED_PARAMETER_BOOL)
        return libsched_error_set(err, status, "parameter \"%s\" has to be true or false", p->name);
    *out = p->value.boolean;
    return LIBSCHED_OK;
}

static int read_integer(const libsched_parameter *p, uint64_t min, uint64_t max, uint64_t *out,
                        libsched_error *err)
{
    if (p->type != LIBSCHED_PARAMETER_INT)
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "parameter \"%s\" has to be an integer",
                                  p->name);
    if (p->value.integer < 0 || (uint64_t)p->value.integer < min ||
        (uint64_t)p->value.integer > max)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "parameter \"%s\" has to be from %" PRIu64 " to %" PRIu64
                                  ", got %" PRId64,
                                  p->name, min, max, p->value.integer);
    *out = (uint64_t)p->value.integer;
    return LIBSCHED_OK;
}

static int read_precision(const libsched_parameter *p, struct encoder_options *out,
                          libsched_error *err)
{
    const char *got = p->type == LIBSCHED_PARAMETER_STRING ? p->value.string : "no string";

    out->auto_precision = strcmp(got, "auto") == 0;
    if (out->auto_precision || strcmp(got, "f32") == 0)
        out->precision = LIBSCHED_FP32;
    else if (strcmp(got, "bf16") == 0)
        out->precision = LIBSCHED_BF16;
    else
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "parameter \"precision\" has to be \"f32\", \"bf16\" or "
                                  "\"auto\", got \"%.64s\"",
                                  got);
    return LIBSCHED_OK;
}

static int read_pooling(const libsched_parameter *p, struct encoder_options *out,
                        libsched_error *err)
{
    const char *got = p->type == LIBSCHED_PARAMETER_STRING ? p->value.string : "no string";

    for (size_t i = 0; i < sizeof(poolings) / sizeof(poolings[0]); i++) {
        if (strcmp(got, poolings[i].name) == 0) {
            out->pooling = poolings[i].value;
            return LIBSCHED_OK;
        }
    }
    return libsched_error_set(err, LIBSCHED_EBADMODEL,
                              "parameter \"pooling\" has to be \"mean\", \"cls\" or \"max\", got "
                              "\"%.64s\"",
                              got);
}

static int read_one(struct encoder_options *out, const struct encoder_config *config,
                    const libsched_parameter *p, libsched_error *err)
{
    uint64_t n = 0;
    int status;

    if (strcmp(p->name, "precision") == 0)
        return read_precision(p, out, err);
    if (strcmp(p->name, "pooling") == 0)
        return read_pooling(p, out, err);
    if (strcmp(p->name, "normalize") == 0)
        return read_bool(p, &out->normalize, LIBSCHED_EBADMODEL, err);
    if (strcmp(p->name, "max_batch_units") == 0)
        return read_integer(p, 1, INT64_MAX, &out->max_batch_units, err);
    if (strcmp(p->name, "max_request_units") == 0)
        return read_integer(p, 1, INT64_MAX, &out->max_request_units, err);
    if (strcmp(p->name, "max_length") == 0) {
        status = read_integer(p, MIN_LENGTH, config->positions, &n, err);
        out->max_length = (uint32_t)n;
        return status;
    }
    if (strcmp(p->name, "max_batch_requests") == 0) {
        status = read_integer(p, 1, UINT32_MAX, &n, err);
        out->max_batch_requests = (uint32_t)n;
        return status;
    }
    return libsched_error_set(err, LIBSCHED_EBADMODEL,
                              "unknown parameter \"%.64s\": the encoder has precision, max_length, "
                              "pooling, normalize, max_batch_requests, max_batch_units and "
                              "max_request_units",
                              p->name);
}

int encoder_options_read(struct encoder_options *out, const struct encoder_config *config,
                         const libsched_parameter *parameters, uint32_t n, libsched_error *err)
{
    memset(out, 0, sizeof(*out));
    out->precision = LIBSCHED_FP32;
    out->max_length = config->max_tokens;
    out->pooling = config->pooling == ENCODER_POOL_CLS   ? LIBSCHED_POOLING_CLS
                   : config->pooling == ENCODER_POOL_MAX ? LIBSCHED_POOLING_MAX
                                                         : LIBSCHED_POOLING_MEAN;
    out->normalize = config->normalize;
    out->max_request_units = DEFAULT_MAX_REQUEST_UNITS;
    for (uint32_t i = 0; i < n; i++) {
        int status = read_one(out, config, &parameters[i], err);
        if (status != LIBSCHED_OK)
            return status;
    }
    return LIBSCHED_OK;
}

/* ---------------------------------------------------------------------------------- a request */

static int read_output(const libsched_parameter *p, const libsched_engine_model *model,
                       enum encoder_output *out, libsched_error *err)
{
    const char *got = p->type == LIBSCHED_PARAMETER_STRING ? p->value.string : "no string";

    if (strcmp(got, "embedding") == 0)
        *out = ENCODER_EMBEDDING;
    else if (strcmp(got, "token_states") == 0)
        *out = ENCODER_TOKEN_STATES;
    else if (strcmp(got, "scores") == 0 && model->head != NULL)
        *out = ENCODER_SCORES;
    else
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "parameter \"output\" has to be \"embedding\"%s or "
                                  "\"token_states\", got \"%.64s\"",
                                  model->head != NULL ? ", \"scores\"" : "", got);
    return LIBSCHED_OK;
}

int encoder_request_read(struct encoder_request *out, const libsched_engine_model *model,
                         const libsched_item *item, libsched_error *err)
{
    out->truncate = true;
    out->output = model->head != NULL ? ENCODER_SCORES : ENCODER_EMBEDDING;
    for (uint32_t i = 0; i < item->n_parameters; i++) {
        const libsched_parameter *p = &item->parameters[i];
        int status;
        if (strcmp(p->name, "truncate") == 0)
            status = read_bool(p, &out->truncate, LIBSCHED_EINVAL, err);
        else if (strcmp(p->name, "output") == 0)
            status = read_output(p, model, &out->output, err);
        else
            status = libsched_error_set(err, LIBSCHED_EINVAL,
                                        "unknown parameter \"%.64s\": a request to an encoder may "
                                        "have \"output\" and \"truncate\"",
                                        p->name);
        if (status != LIBSCHED_OK)
            return status;
    }
    return LIBSCHED_OK;
}

const libsched_tensor *encoder_input(const libsched_item *item, const char *name)
{
    for (uint32_t i = 0; i < item->n_inputs; i++)
        if (strcmp(item->inputs[i].name, name) == 0)
            return &item->inputs[i];
    return NULL;
}
