/* SPDX-License-Identifier: Apache-2.0 */
#include "catalog/json.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "catalog/file.h"

/* Whether brackets outside of strings nest deeper than allowed. The parser recurses, so this is
 * asked before it runs. */
static bool nests_deeper(const char *text, size_t length, unsigned max_depth)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > max_depth)
                return true;
        } else if (c == '}' || c == ']') {
            if (depth > 0)
                depth--;
        }
    }
    return false;
}

static int parse(json_t **out, const char *text, size_t length, unsigned max_depth, json_type top,
                 const char *file, libsched_error *err)
{
    *out = NULL;
    if (nests_deeper(text, length, max_depth))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "%s: nested deeper than %u levels, which is the limit", file,
                                  max_depth);
    json_error_t problem;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &problem);
    if (root == NULL) {
        char quoted[CATALOG_QUOTE_SIZE];
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s: not JSON in line %d, byte %d: %s",
                                  file, problem.line, problem.position,
                                  catalog_quote(quoted, problem.text));
    }
    if (json_typeof(root) != top) {
        json_decref(root);
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s: expected %s at the top", file,
                                  top == JSON_ARRAY ? "an array" : "an object");
    }
    *out = root;
    return LIBSCHED_OK;
}

int catalog_json_parse(json_t **out, const char *text, size_t length, unsigned max_depth,
                       const char *file, libsched_error *err)
{
    return parse(out, text, length, max_depth, JSON_OBJECT, file, err);
}

static int load(json_t **out, const char *folder, const char *file, size_t max_size, json_type top,
                libsched_error *err)
{
    *out = NULL;
    char *text;
    size_t length;
    int status = catalog_file_read(&text, &length, folder, file, max_size, err);
    if (status != LIBSCHED_OK)
        return status;
    status = parse(out, text, length, CATALOG_JSON_MAX_DEPTH, top, file, err);
    catalog_file_free(text);
    return status;
}

int catalog_json_load(json_t **out, const char *folder, const char *file, size_t max_size,
                      libsched_error *err)
{
    return load(out, folder, file, max_size, JSON_OBJECT, err);
}

int catalog_json_load_optional(json_t **out, const char *folder, const char *file, size_t max_size,
                               libsched_error *err)
{
    *out = NULL;
    if (!catalog_file_exists(folder, file))
        return LIBSCHED_OK;
    return load(out, folder, file, max_size, JSON_OBJECT, err);
}

int catalog_json_load_optional_array(json_t **out, const char *folder, const char *file,
                                     size_t max_size, libsched_error *err)
{
    *out = NULL;
    if (!catalog_file_exists(folder, file))
        return LIBSCHED_OK;
    return load(out, folder, file, max_size, JSON_ARRAY, err);
}

/* The value of a key, or NULL where it is absent or null. */
static const json_t *member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "unknown";
}

static int wrong_type(const char *file, const char *key, const json_t *value, const char *expected,
                      libsched_error *err)
{
    return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s: \"%s\" is %s, expected %s", file, key,
                              type_name(value), expected);
}

int catalog_json_require(const json_t *object, const char *file, const char *key,
                         libsched_error *err)
{
    if (member(object, key) != NULL)
        return LIBSCHED_OK;
    return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s: \"%s\" is missing", file, key);
}

int catalog_json_uint(const json_t *object, const char *file, const char *key, uint64_t min,
                      uint64_t max, uint64_t *inout, libsched_error *err)
{
    const json_t *value = member(object, key);
    if (value == NULL)
        return LIBSCHED_OK;
    if (!json_is_integer(value))
        return wrong_type(file, key, value, "an integer", err);
    json_int_t number = json_integer_value(value);
    if (number < 0 || (uint64_t)number < min || (uint64_t)number > max)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "%s: \"%s\" is %" JSON_INTEGER_FORMAT ", expected %" PRIu64
                                  " to %" PRIu64,
                                  file, key, number, min, max);
    *inout = (uint64_t)number;
    return LIBSCHED_OK;
}

int catalog_json_real(const json_t *object, const char *file, const char *key, double min,
                      double max, double *inout, libsched_error *err)
{
    const json_t *value = member(object, key);
    if (value == NULL)
        return LIBSCHED_OK;
    if (!json_is_number(value))
        return wrong_type(file, key, value, "a number", err);
    double number = json_number_value(value);
    if (!isfinite(number) || number < min || number > max)
        return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s: \"%s\" is %g, expected %g to %g",
                                  file, key, number, min, max);
    *inout = number;
    return LIBSCHED_OK;
}

int catalog_json_bool(const json_t *object, const char *file, const char *key, bool *inout,
                      libsched_error *err)
{
    const json_t *value = member(object, key);
    if (value == NULL)
        return LIBSCHED_OK;
    if (!json_is_boolean(value))
        return wrong_type(file, key, value, "true or false", err);
    *inout = json_is_true(value);
    return LIBSCHED_OK;
}

int catalog_json_string(const json_t *object, const char *file, const char *key, const char **inout,
                        libsched_error *err)
{
    const json_t *value = member(object, key);
    if (value == NULL)
        return LIBSCHED_OK;
    if (!json_is_string(value))
        return wrong_type(file, key, value, "a string", err);
    *inout = json_string_value(value);
    return LIBSCHED_OK;
}

int catalog_json_only(const json_t *object, const char *file, const char *const *known,
                      libsched_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        const char *const *at = known;
        while (*at != NULL && strcmp(*at, key) != 0)
            at++;
        if (*at == NULL) {
            char quoted[CATALOG_QUOTE_SIZE];
            return libsched_error_set(
                err, LIBSCHED_EBADMODEL,
                "%s: unknown key \"%s\": remove it, or look for a misspelling", file,
                catalog_quote(quoted, key));
        }
    }
    return LIBSCHED_OK;
}

const char *catalog_quote(char out[CATALOG_QUOTE_SIZE], const char *text)
{
    size_t length = strlen(text);
    size_t cut = length;
    if (length >= CATALOG_QUOTE_SIZE) {
        cut = CATALOG_QUOTE_SIZE - sizeof("...");
        while (cut > 0 && ((unsigned char)text[cut] & 0xC0) == 0x80)
            cut--;
    }
    for (size_t i = 0; i < cut; i++)
        out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7F ? '?' : text[i];
    memcpy(out + cut, cut < length ? "..." : "", cut < length ? sizeof("...") : 1);
    return out;
}
