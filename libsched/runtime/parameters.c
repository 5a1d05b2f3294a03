/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model's parameters: those of its manifest, and those that the loader puts in their place.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

static size_t string_bytes(const libsched_parameter *p)
{
    size_t size = strlen(p->name) + 1;
    if (p->type == LIBSCHED_PARAMETER_STRING)
        size += strlen(p->value.string) + 1;
    return size;
}

static const char *copy_string(char **at, const char *string)
{
    size_t size = strlen(string) + 1;
    const char *copy = memcpy(*at, string, size);
    *at += size;
    return copy;
}

static libsched_parameter copy(char **at, const libsched_parameter *p)
{
    libsched_parameter to = *p;
    to.name = copy_string(at, p->name);
    if (p->type == LIBSCHED_PARAMETER_STRING)
        to.value.string = copy_string(at, p->value.string);
    return to;
}

int runtime_parameters_merge(libsched_parameter **out, uint32_t *n_out,
                             const libsched_parameter *first, uint32_t n_first,
                             const libsched_parameter *more, uint32_t n_more, libsched_error *err)
{
    uint32_t n = n_first;
    size_t strings = 0;
    for (uint32_t i = 0; i < n_first; i++)
        strings += string_bytes(&first[i]);
    for (uint32_t i = 0; i < n_more; i++)
        if (libsched_parameter_find(first, n_first, more[i].name) == NULL) {
            strings += string_bytes(&more[i]);
            n++;
        }
    *out = NULL;
    *n_out = 0;
    if (n > LIBSCHED_MAX_PARAMETERS)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%u parameters with those of the manifest, at most %d are taken",
                                  n, LIBSCHED_MAX_PARAMETERS);
    if (n == 0)
        return LIBSCHED_OK;
    libsched_parameter *parameters = malloc(n * sizeof(*parameters) + strings);
    if (parameters == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for parameters");
    char *at = (char *)(parameters + n);
    uint32_t k = 0;
    for (uint32_t i = 0; i < n_first; i++)
        parameters[k++] = copy(&at, &first[i]);
    for (uint32_t i = 0; i < n_more; i++)
        if (libsched_parameter_find(first, n_first, more[i].name) == NULL)
            parameters[k++] = copy(&at, &more[i]);
    *out = parameters;
    *n_out = n;
    return LIBSCHED_OK;
}
