/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a request is one that its model takes; and if not, which tensor or parameter is wrong,
 * what was got, and what would be right.
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/internal.h"

int runtime_validate_name(const char *what, const char *name, libsched_error *err)
{
    size_t length = strnlen(name, LIBSCHED_NAME_SIZE);
    if (length == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s is empty", what);
    if (length == LIBSCHED_NAME_SIZE)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s \"%.20s...\" is longer than %d bytes",
                                  what, name, LIBSCHED_NAME_SIZE - 1);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c >= 0x80 || (!isalnum(c) && strchr("._-", c) == NULL))
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "%s \"%s\" has a character that is none of "
                                      "A-Z a-z 0-9 . _ -",
                                      what, name);
    }
    return LIBSCHED_OK;
}

int runtime_validate_client(const char *client, libsched_error *err)
{
    if (client != NULL && strnlen(client, LIBSCHED_NAME_SIZE) == LIBSCHED_NAME_SIZE)
        return libsched_error_set(err, LIBSCHED_EINVAL, "client is longer than %d bytes",
                                  LIBSCHED_NAME_SIZE - 1);
    return LIBSCHED_OK;
}

static int check_name(const char *what, uint32_t index, const char *name, libsched_error *err)
{
    if (name == NULL || name[0] == '\0')
        return libsched_error_set(err, LIBSCHED_EINVAL, "%s %u has no name", what, index);
    if (strnlen(name, LIBSCHED_NAME_SIZE) == LIBSCHED_NAME_SIZE)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%s \"%.20s...\" has a name longer than %d bytes", what, name,
                                  LIBSCHED_NAME_SIZE - 1);
    return LIBSCHED_OK;
}

static int check_value(const libsched_parameter *p, libsched_error *err)
{
    switch (p->type) {
    case LIBSCHED_PARAMETER_BOOL:
    case LIBSCHED_PARAMETER_INT:
        return LIBSCHED_OK;
    case LIBSCHED_PARAMETER_FLOAT:
        if (isfinite(p->value.real))
            return LIBSCHED_OK;
        return libsched_error_set(err, LIBSCHED_EINVAL, "parameter \"%s\" is no finite number",
                                  p->name);
    case LIBSCHED_PARAMETER_STRING:
        if (p->value.string != NULL &&
            strnlen(p->value.string, RUNTIME_MAX_STRING) < RUNTIME_MAX_STRING)
            return LIBSCHED_OK;
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "parameter \"%s\" is %s, at most %u bytes are taken", p->name,
                                  p->value.string == NULL ? "NULL" : "longer than a string may be",
                                  RUNTIME_MAX_STRING - 1);
    }
    return libsched_error_set(err, LIBSCHED_EINVAL,
                              "parameter \"%s\" has the type %u, of which "
                              "none is known",
                              p->name, p->type);
}

int runtime_validate_parameters(const libsched_parameter *parameters, uint32_t n,
                                libsched_error *err)
{
    if (n > LIBSCHED_MAX_PARAMETERS)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%u parameters, at most %d are taken", n,
                                  LIBSCHED_MAX_PARAMETERS);
    if (n > 0 && parameters == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "n_parameters is %u, parameters is NULL",
                                  n);
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        int rc = check_name("parameter", i, parameters[i].name, err);
        if (rc == LIBSCHED_OK)
            rc = check_value(&parameters[i], err);
        if (rc < 0)
            return rc;
        bytes += strlen(parameters[i].name) + 1;
        if (parameters[i].type == LIBSCHED_PARAMETER_STRING)
            bytes += strlen(parameters[i].value.string) + 1;
        if (libsched_parameter_find(parameters, i, parameters[i].name) != NULL)
            return libsched_error_set(err, LIBSCHED_EINVAL, "parameter \"%s\" is given twice",
                                      parameters[i].name);
    }
    /* What a worker promises to take in every step. */
    if (bytes > WORKER_MAX_PARAMETER_BYTES)
        return libsched_error_set(err, LIBSCHED_ETOOBIG,
                                  "the parameters hold %zu bytes of names and strings, at most %u "
                                  "are taken: what is larger belongs into an input",
                                  bytes, WORKER_MAX_PARAMETER_BYTES);
    return LIBSCHED_OK;
}

int runtime_validate_tensors(const libsched_tensor *tensors, uint32_t n, libsched_error *err)
{
    if (n > LIBSCHED_MAX_TENSORS)
        return libsched_error_set(err, LIBSCHED_EINVAL, "%u inputs, at most %d are taken", n,
                                  LIBSCHED_MAX_TENSORS);
    if (n > 0 && tensors == NULL)
        return libsched_error_set(err, LIBSCHED_EINVAL, "n_inputs is %u, inputs is NULL", n);
    for (uint32_t i = 0; i < n; i++) {
        const libsched_tensor *tensor = &tensors[i];
        int rc = check_name("input", i, tensor->name, err);
        if (rc < 0)
            return rc;
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(tensors[j].name, tensor->name) == 0)
                return libsched_error_set(err, LIBSCHED_EINVAL, "\"%s\" is given twice",
                                          tensor->name);
        if (libsched_datatype_name(tensor->datatype) == NULL)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "\"%s\" has the datatype %u, of which none is known",
                                      tensor->name, tensor->datatype);
        if (tensor->rank > LIBSCHED_MAX_RANK)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "\"%s\" has %u dimensions, at most %d are taken",
                                      tensor->name, tensor->rank, LIBSCHED_MAX_RANK);
        if (tensor->size > 0 && tensor->data == NULL)
            return libsched_error_set(err, LIBSCHED_EINVAL, "\"%s\" has a size and no data",
                                      tensor->name);
    }
    return LIBSCHED_OK;
}

/* "[2, -1]" as far as it fits. */
static const char *shape_text(char *out, size_t size, const int64_t *shape, uint32_t rank)
{
    size_t at = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i <= rank && at < size; i++) {
        int n = i == 0 ? snprintf(out, size, rank == 0 ? "[]" : "[")
                       : snprintf(out + at, size - at, i < rank ? "%lld, " : "%lld]",
                                  (long long)shape[i - 1]);
        if (n < 0)
            break;
        at += (size_t)n;
    }
    return out;
}

static bool shape_matches(const libsched_tensor_spec *spec, const struct worker_tensor *tensor)
{
    if (spec->rank != tensor->rank)
        return false;
    for (uint32_t i = 0; i < spec->rank; i++)
        if (spec->shape[i] >= 0 && spec->shape[i] != tensor->shape[i])
            return false;
    return true;
}

/* Of the specs that have the tensor's name (one for each form that is taken) the one that it fits,
 * or the nearest; NULL where none has that name. */
static const libsched_tensor_spec *spec_for(const libsched_engine_description *d,
                                            const struct worker_tensor *tensor)
{
    const libsched_tensor_spec *nearest = NULL;
    for (uint32_t i = 0; i < d->n_inputs; i++) {
        const libsched_tensor_spec *spec = &d->inputs[i];
        if (strcmp(spec->name, tensor->name) != 0)
            continue;
        bool same_type = spec->datatype == tensor->datatype;
        if (same_type && shape_matches(spec, tensor))
            return spec;
        if (nearest == NULL || (same_type && nearest->datatype != tensor->datatype))
            nearest = spec;
    }
    return nearest;
}

/* Whether a spec repeats the name, and with it the datatype, of one before it. */
static bool repeats(const libsched_engine_description *d, uint32_t index, bool datatype_too)
{
    for (uint32_t i = 0; i < index; i++)
        if (strcmp(d->inputs[i].name, d->inputs[index].name) == 0 &&
            (!datatype_too || d->inputs[i].datatype == d->inputs[index].datatype))
            return true;
    return false;
}

/* "INT32 or INT64": the datatypes that an input may have. */
static const char *datatype_names(char *out, size_t size, const libsched_engine_description *d,
                                  const char *name)
{
    size_t at = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < d->n_inputs && at < size; i++) {
        if (strcmp(d->inputs[i].name, name) != 0 || repeats(d, i, true))
            continue;
        int n = snprintf(out + at, size - at, "%s%s", at > 0 ? " or " : "",
                         libsched_datatype_name(d->inputs[i].datatype));
        if (n < 0)
            break;
        at += (size_t)n;
    }
    return out;
}

/* "text", "input_ids" */
static const char *input_names(char *out, size_t size, const libsched_engine_description *d)
{
    size_t at = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < d->n_inputs && at < size; i++) {
        if (repeats(d, i, false))
            continue;
        int n = snprintf(out + at, size - at, "%s\"%s\"", at > 0 ? ", " : "", d->inputs[i].name);
        if (n < 0)
            break;
        at += (size_t)n;
    }
    return out;
}

int runtime_validate_inputs(const struct runtime_model *model, const struct worker_tensor *tensors,
                            uint32_t n, libsched_error *err)
{
    const libsched_engine_description *d = &model->description;
    char got[96], expected[96];

    for (uint32_t i = 0; i < n; i++) {
        const struct worker_tensor *tensor = &tensors[i];
        const libsched_tensor_spec *spec = spec_for(d, tensor);
        if (spec == NULL)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "no input is called \"%s\", the model "
                                      "takes %s",
                                      tensor->name,
                                      d->n_inputs > 0 ? input_names(got, sizeof(got), d) : "none");
        if (spec->datatype != tensor->datatype)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "\"%s\" has datatype %s, the model takes %s", tensor->name,
                                      libsched_datatype_name(tensor->datatype),
                                      datatype_names(expected, sizeof(expected), d, tensor->name));
        if (!shape_matches(spec, tensor))
            return libsched_error_set(
                err, LIBSCHED_EINVAL, "\"%s\" has shape %s, the model takes %s", tensor->name,
                shape_text(got, sizeof(got), tensor->shape, tensor->rank),
                shape_text(expected, sizeof(expected), spec->shape, spec->rank));
    }
    for (uint32_t i = 0; i < d->n_inputs; i++) {
        bool given = d->inputs[i].optional;
        for (uint32_t j = 0; j < n && !given; j++)
            given = strcmp(tensors[j].name, d->inputs[i].name) == 0;
        if (!given)
            return libsched_error_set(
                err, LIBSCHED_EINVAL, "\"%s\" is missing, the model takes it as %s of shape %s",
                d->inputs[i].name, libsched_datatype_name(d->inputs[i].datatype),
                shape_text(expected, sizeof(expected), d->inputs[i].shape, d->inputs[i].rank));
    }
    return LIBSCHED_OK;
}

uint64_t runtime_units(const libsched_engine_description *description, uint64_t bytes)
{
    uint64_t product, units;
    if (__builtin_mul_overflow(bytes, description->units_per_kib, &product))
        return UINT64_MAX;
    units = product / 1024 + (product % 1024 != 0);
    if (__builtin_add_overflow(units, description->units_fixed, &units))
        return UINT64_MAX;
    return units > 0 ? units : 1;
}
