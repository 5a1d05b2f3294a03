/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/ledger.h"

#include <stdlib.h>
#include <string.h>

/* What a value takes beside its name and its text. */
#define OVERHEAD 16u

static int check(const libsched_parameter *value, libsched_error *err)
{
    if (value->name == NULL || value->name[0] == '\0' ||
        strnlen(value->name, LIBSCHED_NAME_SIZE) == LIBSCHED_NAME_SIZE)
        return libsched_error_set(err, LIBSCHED_EINVAL, "a result's name has to have 1 to %d bytes",
                                  LIBSCHED_NAME_SIZE - 1);
    if (value->type < LIBSCHED_PARAMETER_BOOL || value->type > LIBSCHED_PARAMETER_STRING ||
        (value->type == LIBSCHED_PARAMETER_STRING && value->value.string == NULL))
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "result \"%s\" is neither a boolean, a number nor a string",
                                  value->name);
    return LIBSCHED_OK;
}

static size_t bytes_of(const libsched_parameter *value)
{
    size_t bytes = OVERHEAD + strlen(value->name);
    if (value->type == LIBSCHED_PARAMETER_STRING)
        bytes += strlen(value->value.string);
    return bytes;
}

static struct ledger_entry *find(const struct ledger *ledger, const char *name)
{
    for (size_t i = 0; i < ledger->n; i++)
        if (strcmp(ledger->entries[i].name, name) == 0)
            return &ledger->entries[i];
    return NULL;
}

static struct ledger_entry *add(struct ledger *ledger, const char *name)
{
    if (ledger->n == ledger->capacity) {
        size_t capacity = ledger->capacity > 0 ? 2 * ledger->capacity : 16;
        struct ledger_entry *entries = realloc(ledger->entries, capacity * sizeof(*entries));
        if (entries == NULL)
            return NULL;
        ledger->entries = entries;
        ledger->capacity = capacity;
    }
    struct ledger_entry *entry = &ledger->entries[ledger->n];
    *entry = (struct ledger_entry){.name = strdup(name)};
    if (entry->name == NULL)
        return NULL;
    ledger->n++;
    return entry;
}

int ledger_put(struct ledger *ledger, const libsched_parameter *value, libsched_error *err)
{
    int status = check(value, err);
    if (status < 0)
        return status;
    struct ledger_entry *entry = find(ledger, value->name);
    size_t bytes = bytes_of(value);
    size_t others = ledger->bytes - (entry != NULL ? entry->bytes : 0);
    if (bytes > LEDGER_MAX_BYTES - others)
        return libsched_error_set(err, LIBSCHED_ETOOBIG,
                                  "result \"%s\" of %zu bytes: a job's results may have %zu in "
                                  "all, and %zu are taken",
                                  value->name, bytes, LEDGER_MAX_BYTES, others);
    if (entry == NULL && (entry = add(ledger, value->name)) == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a result");
    entry->bytes = bytes;
    ledger->bytes = others + bytes;
    return LIBSCHED_OK;
}

void ledger_free(struct ledger *ledger)
{
    for (size_t i = 0; i < ledger->n; i++)
        free(ledger->entries[i].name);
    free(ledger->entries);
    *ledger = (struct ledger){0};
}
