/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/description.h"

#include <inttypes.h>
#include <string.h>

static int check_specs(const char *what, const libsched_tensor_spec *specs, uint32_t n,
                       libsched_error *err)
{
    if (n > LIBSCHED_MAX_TENSORS)
        return libsched_error_set(err, LIBSCHED_EENGINE,
                                  "the engine describes %" PRIu32 " %ss, at most %d are possible",
                                  n, what, LIBSCHED_MAX_TENSORS);
    for (uint32_t i = 0; i < n; i++) {
        const libsched_tensor_spec *spec = &specs[i];
        size_t length = strnlen(spec->name, sizeof(spec->name));
        if (length == 0 || length == sizeof(spec->name))
            return libsched_error_set(err, LIBSCHED_EENGINE,
                                      "the engine's %s %" PRIu32 " has no proper name", what, i);
        if (libsched_datatype_name(spec->datatype) == NULL)
            return libsched_error_set(err, LIBSCHED_EENGINE,
                                      "the engine's %s \"%s\" has the unknown datatype %" PRIu32,
                                      what, spec->name, spec->datatype);
        if (spec->rank > LIBSCHED_MAX_RANK)
            return libsched_error_set(err, LIBSCHED_EENGINE,
                                      "the engine's %s \"%s\" has %" PRIu32
                                      " dimensions, at most %d are possible",
                                      what, spec->name, spec->rank, LIBSCHED_MAX_RANK);
        for (uint32_t d = 0; d < spec->rank; d++)
            if (spec->shape[d] < -1)
                return libsched_error_set(err, LIBSCHED_EENGINE,
                                          "the engine's %s \"%s\" has a dimension of %" PRId64,
                                          what, spec->name, spec->shape[d]);
    }
    return LIBSCHED_OK;
}

int description_check(libsched_engine_description *description, libsched_error *err)
{
    description->text[sizeof(description->text) - 1] = '\0';
    int status = check_specs("input", description->inputs, description->n_inputs, err);
    if (status == 0)
        status = check_specs("output", description->outputs, description->n_outputs, err);
    if (status == 0 && description->max_batch_requests == 0)
        status = libsched_error_set(err, LIBSCHED_EENGINE,
                                    "the engine describes a batch of no requests");
    if (status == 0 && description->max_request_units == 0)
        status =
            libsched_error_set(err, LIBSCHED_EENGINE, "the engine describes requests of no units");
    return status;
}
