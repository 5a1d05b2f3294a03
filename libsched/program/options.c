/* SPDX-License-Identifier: Apache-2.0 */
#include "program/options.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

void options_begin(struct option_reader *reader, const libsched_program_args *args,
                   const char *program, libsched_error *err)
{
    *reader = (struct option_reader){.args = args, .program = program, .err = err};
    if (args->struct_size < sizeof(*args) || args->n_parameters > LIBSCHED_MAX_PARAMETERS)
        reader->status = libsched_error_set(err, LIBSCHED_EINVAL, "%s: at most %d parameters",
                                            program, LIBSCHED_MAX_PARAMETERS);
}

/* The parameter of a name; NULL where it is absent or something is wrong already. */
static const libsched_parameter *take(struct option_reader *reader, const char *name)
{
    const libsched_parameter *found = NULL;

    for (uint32_t i = 0; reader->status == LIBSCHED_OK && i < reader->args->n_parameters; i++) {
        if (strcmp(reader->args->parameters[i].name, name) != 0)
            continue;
        reader->taken |= 1u << i;
        found = &reader->args->parameters[i];
    }
    return found;
}

bool options_integer(struct option_reader *reader, const char *name, uint64_t min, uint64_t max,
                     uint64_t *inout)
{
    const libsched_parameter *p = take(reader, name);

    if (p == NULL)
        return false;
    if (p->type != LIBSCHED_PARAMETER_INT)
        reader->status = libsched_error_set(
            reader->err, LIBSCHED_EINVAL, "%s: \"%s\" has to be an integer", reader->program, name);
    else if (p->value.integer < 0 || (uint64_t)p->value.integer < min ||
             (uint64_t)p->value.integer > max)
        reader->status =
            libsched_error_set(reader->err, LIBSCHED_EINVAL,
                               "%s: \"%s\" has to be from %" PRIu64 " to %" PRIu64 ", got %" PRId64,
                               reader->program, name, min, max, p->value.integer);
    else
        *inout = (uint64_t)p->value.integer;
    return true;
}

bool options_real(struct option_reader *reader, const char *name, double min, double max,
                  double *inout)
{
    const libsched_parameter *p = take(reader, name);
    double value;

    if (p == NULL)
        return false;
    if (p->type != LIBSCHED_PARAMETER_INT && p->type != LIBSCHED_PARAMETER_FLOAT) {
        reader->status = libsched_error_set(reader->err, LIBSCHED_EINVAL,
                                            "%s: \"%s\" has to be a number", reader->program, name);
        return true;
    }
    value = p->type == LIBSCHED_PARAMETER_INT ? (double)p->value.integer : p->value.real;
    if (!(value >= min && value <= max))
        reader->status = libsched_error_set(reader->err, LIBSCHED_EINVAL,
                                            "%s: \"%s\" has to be from %g to %g, got %g",
                                            reader->program, name, min, max, value);
    else
        *inout = value;
    return true;
}

bool options_datatype(struct option_reader *reader, const char *name, uint32_t *inout)
{
    const libsched_parameter *p = take(reader, name);
    const char *got;

    if (p == NULL)
        return false;
    got = p->type == LIBSCHED_PARAMETER_STRING ? p->value.string : "no string";
    if (strcmp(got, "f32") == 0)
        *inout = LIBSCHED_FP32;
    else if (strcmp(got, "bf16") == 0)
        *inout = LIBSCHED_BF16;
    else
        reader->status = libsched_error_set(
            reader->err, LIBSCHED_EINVAL, "%s: \"%s\" has to be \"f32\" or \"bf16\", got \"%.64s\"",
            reader->program, name, got);
    return true;
}

/* "\"data\" or \"tensor\"". */
static void list_choices(char *out, size_t size, const char *const *choices)
{
    size_t used = 0;

    for (size_t i = 0; choices[i] != NULL && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s\"%s\"",
                                 i == 0                   ? ""
                                 : choices[i + 1] == NULL ? " or "
                                                          : ", ",
                                 choices[i]);
}

bool options_choice(struct option_reader *reader, const char *name, const char *const *choices,
                    uint32_t *inout)
{
    const libsched_parameter *p = take(reader, name);
    const char *got;
    char list[128];

    if (p == NULL)
        return false;
    got = p->type == LIBSCHED_PARAMETER_STRING ? p->value.string : "no string";
    for (uint32_t i = 0; choices[i] != NULL; i++) {
        if (strcmp(got, choices[i]) == 0) {
            *inout = i;
            return true;
        }
    }
    list_choices(list, sizeof(list), choices);
    reader->status =
        libsched_error_set(reader->err, LIBSCHED_EINVAL, "%s: \"%s\" has to be %s, got \"%.64s\"",
                           reader->program, name, list, got);
    return true;
}

void options_path(struct option_reader *reader, const char *name, const char **out)
{
    const libsched_parameter *p = take(reader, name);

    if (reader->status != LIBSCHED_OK)
        return;
    if (p == NULL)
        reader->status =
            libsched_error_set(reader->err, LIBSCHED_EINVAL,
                               "%s: \"%s\" is missing: a path on the host", reader->program, name);
    else if (p->type != LIBSCHED_PARAMETER_STRING || p->value.string[0] != '/')
        reader->status = libsched_error_set(
            reader->err, LIBSCHED_EINVAL,
            "%s: \"%s\" has to be an absolute path on the host, got \"%.64s\"", reader->program,
            name, p->type == LIBSCHED_PARAMETER_STRING ? p->value.string : "no string");
    else
        *out = p->value.string;
}

int options_end(struct option_reader *reader, const char *known)
{
    for (uint32_t i = 0; reader->status == LIBSCHED_OK && i < reader->args->n_parameters; i++)
        if ((reader->taken & 1u << i) == 0)
            reader->status = libsched_error_set(
                reader->err, LIBSCHED_EINVAL, "%s: unknown parameter \"%.64s\"; it has %s",
                reader->program, reader->args->parameters[i].name, known);
    return reader->status;
}

/* -------------------------------------------------------------------------------------- results */

int result_integer(const libsched_program_host *host, void *host_data, const char *name,
                   uint64_t value)
{
    const libsched_parameter p = {.name = name,
                                  .type = LIBSCHED_PARAMETER_INT,
                                  .value.integer = value <= INT64_MAX ? (int64_t)value : INT64_MAX};
    return host->result(host_data, &p);
}

int result_real(const libsched_program_host *host, void *host_data, const char *name, double value)
{
    const libsched_parameter p = {
        .name = name, .type = LIBSCHED_PARAMETER_FLOAT, .value.real = value};
    return host->result(host_data, &p);
}

int result_text(const libsched_program_host *host, void *host_data, const char *name,
                const char *value)
{
    const libsched_parameter p = {
        .name = name, .type = LIBSCHED_PARAMETER_STRING, .value.string = value};
    return host->result(host_data, &p);
}

void options_bytes_text(char *out, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    snprintf(out, size, value == floor(value) ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

uint64_t program_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
