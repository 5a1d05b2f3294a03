/* SPDX-License-Identifier: Apache-2.0 */
#include "catalog/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "catalog/file.h"
#include "catalog/json.h"

/* Header, tensor, shape. */
#define HEADER_DEPTH 3
#define LABEL_SIZE 128
#define LENGTH_BYTES 8

struct safetensors {
    json_t *header; /* owns the names */
    libsched_tensor *tensors;
    size_t count;
    void *data; /* pages of its own; NULL where there is no data */
    uint64_t data_size;
    char label[LABEL_SIZE]; /* the file's name, for messages */
};

static const struct {
    const char *name;
    uint32_t datatype;
} dtypes[] = {
    {"BOOL", LIBSCHED_BOOL},  {"U8", LIBSCHED_UINT8},   {"U16", LIBSCHED_UINT16},
    {"U32", LIBSCHED_UINT32}, {"U64", LIBSCHED_UINT64}, {"I8", LIBSCHED_INT8},
    {"I16", LIBSCHED_INT16},  {"I32", LIBSCHED_INT32},  {"I64", LIBSCHED_INT64},
    {"F16", LIBSCHED_FP16},   {"BF16", LIBSCHED_BF16},  {"F32", LIBSCHED_FP32},
    {"F64", LIBSCHED_FP64},
};

static uint32_t parse_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return dtypes[i].datatype;
    return 0;
}

const char *safetensors_dtype_name(uint32_t datatype)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (dtypes[i].datatype == datatype)
            return dtypes[i].name;
    return NULL;
}

static int refuse(const struct safetensors *file, const libsched_tensor *tensor, const char *what,
                  libsched_error *err)
{
    char quoted[CATALOG_QUOTE_SIZE];
    return libsched_error_set(err, LIBSCHED_EBADMODEL, "%s: tensor \"%s\": %s", file->label,
                              catalog_quote(quoted, tensor->name), what);
}

static int parse_shape(const struct safetensors *file, libsched_tensor *tensor, const json_t *shape,
                       libsched_error *err)
{
    if (!json_is_array(shape))
        return refuse(file, tensor, "\"shape\" is missing or not an array", err);
    if (json_array_size(shape) > LIBSCHED_MAX_RANK)
        return refuse(file, tensor, "more than 8 dimensions, which is the limit", err);
    tensor->rank = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < tensor->rank; i++) {
        const json_t *dimension = json_array_get(shape, i);
        if (!json_is_integer(dimension) || json_integer_value(dimension) < 0)
            return refuse(file, tensor, "a dimension that is not a whole number", err);
        tensor->shape[i] = json_integer_value(dimension);
    }
    return LIBSCHED_OK;
}

/* The tensor's place, which for now is kept as an offset in `data`: the data is not read yet. */
static int parse_place(const struct safetensors *file, libsched_tensor *tensor, const json_t *range,
                       uint64_t *offset, libsched_error *err)
{
    const json_t *from = json_array_get(range, 0), *to = json_array_get(range, 1);
    if (json_array_size(range) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return refuse(file, tensor, "\"data_offsets\" is not an array of two integers", err);
    json_int_t begin = json_integer_value(from), end = json_integer_value(to);
    char quoted[CATALOG_QUOTE_SIZE];
    if (begin < 0 || end < begin || (uint64_t)end > file->data_size)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "%s: tensor \"%s\": bytes %" JSON_INTEGER_FORMAT
                                  " to %" JSON_INTEGER_FORMAT " of data, there are %" PRIu64,
                                  file->label, catalog_quote(quoted, tensor->name), begin, end,
                                  file->data_size);

    size_t element = libsched_datatype_size(tensor->datatype);
    int64_t elements = libsched_shape_elements(tensor->shape, tensor->rank);
    tensor->size = (uint64_t)(end - begin);
    if (elements < 0 || (uint64_t)elements > UINT64_MAX / element ||
        (uint64_t)elements * element != tensor->size)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "%s: tensor \"%s\": %" PRIu64
                                  " bytes of data are not what its shape and dtype take",
                                  file->label, catalog_quote(quoted, tensor->name), tensor->size);
    if ((uint64_t)begin % element != 0)
        return refuse(file, tensor, "its data is not aligned to its dtype", err);
    *offset = (uint64_t)begin;
    return LIBSCHED_OK;
}

static int parse_tensor(const struct safetensors *file, libsched_tensor *tensor,
                        const json_t *entry, uint64_t *offset, libsched_error *err)
{
    if (!json_is_object(entry))
        return refuse(file, tensor, "not described by an object", err);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (dtype == NULL)
        return refuse(file, tensor, "\"dtype\" is missing or not a string", err);
    tensor->datatype = parse_dtype(dtype);
    if (tensor->datatype == 0) {
        char name[CATALOG_QUOTE_SIZE], got[CATALOG_QUOTE_SIZE];
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "%s: tensor \"%s\": dtype \"%s\" is not supported", file->label,
                                  catalog_quote(name, tensor->name), catalog_quote(got, dtype));
    }
    int status = parse_shape(file, tensor, json_object_get(entry, "shape"), err);
    if (status == LIBSCHED_OK)
        status = parse_place(file, tensor, json_object_get(entry, "data_offsets"), offset, err);
    return status;
}

/* A tensor's extent, to check that together they fill the data. */
struct extent {
    uint64_t begin, size;
    const libsched_tensor *tensor;
};

static int compare_extents(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    /* An empty tensor goes before the one that begins where it lies. */
    return x->size < y->size ? -1 : x->size > y->size;
}

static int check_extents(const struct safetensors *file, struct extent *extents,
                         libsched_error *err)
{
    qsort(extents, file->count, sizeof(*extents), compare_extents);
    uint64_t covered = 0;
    for (size_t i = 0; i < file->count; i++) {
        if (extents[i].begin < covered)
            return refuse(file, extents[i].tensor, "its data overlaps another tensor's", err);
        if (extents[i].begin > covered)
            return refuse(file, extents[i].tensor, "there is a gap in the data before it", err);
        covered += extents[i].size;
    }
    if (covered != file->data_size)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "%s: %" PRIu64 " bytes behind the last tensor", file->label,
                                  file->data_size - covered);
    return LIBSCHED_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const libsched_tensor *)a)->name, ((const libsched_tensor *)b)->name);
}

/* Fills file->tensors from the header; the data is NULL + offset until it has been read. */
static int parse_tensors(struct safetensors *file, uint64_t *offsets, struct extent *extents,
                         libsched_error *err)
{
    const char *name;
    json_t *entry;
    json_object_foreach(file->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        file->tensors[file->count++].name = name;
    }
    /* Sorted first, since extents point at them. */
    qsort(file->tensors, file->count, sizeof(*file->tensors), compare_names);
    for (size_t i = 0; i < file->count; i++) {
        libsched_tensor *tensor = &file->tensors[i];
        int status = parse_tensor(file, tensor, json_object_get(file->header, tensor->name),
                                  &offsets[i], err);
        if (status != LIBSCHED_OK)
            return status;
        extents[i] = (struct extent){offsets[i], tensor->size, tensor};
    }
    return check_extents(file, extents, err);
}

/* Reads the data and points the tensors into it. */
static int read_data(struct safetensors *file, int fd, uint64_t at, const uint64_t *offsets,
                     libsched_error *err)
{
    static const char nothing[8] __attribute__((aligned(8)));
    if (file->data_size > 0) {
        void *data =
            mmap(NULL, file->data_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == MAP_FAILED)
            return libsched_error_set(err, LIBSCHED_ENOMEM,
                                      "%s: no memory for %" PRIu64 " bytes of weights: %m",
                                      file->label, file->data_size);
        file->data = data;
        int status = catalog_file_read_at(fd, data, file->data_size, at, file->label, err);
        if (status != LIBSCHED_OK)
            return status;
        mprotect(data, file->data_size, PROT_READ);
    }
    for (size_t i = 0; i < file->count; i++)
        file->tensors[i].data =
            file->tensors[i].size > 0 ? (const char *)file->data + offsets[i] : nothing;
    return LIBSCHED_OK;
}

static int read_tensors(struct safetensors *file, int fd, uint64_t data_at, bool header_only,
                        libsched_error *err)
{
    size_t n = json_object_size(file->header);
    file->tensors = calloc(n + 1, sizeof(*file->tensors));
    uint64_t *offsets = calloc(n + 1, sizeof(*offsets));
    struct extent *extents = calloc(n + 1, sizeof(*extents));
    int status;
    if (file->tensors == NULL || offsets == NULL || extents == NULL)
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "%s: no memory", file->label);
    else
        status = parse_tensors(file, offsets, extents, err);
    if (status == LIBSCHED_OK && !header_only)
        status = read_data(file, fd, data_at, offsets, err);
    free(offsets);
    free(extents);
    return status;
}

static int read_header(struct safetensors *file, int fd, uint64_t size, uint64_t *data_at,
                       libsched_error *err)
{
    unsigned char raw[LENGTH_BYTES];
    if (size < sizeof(raw))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "%s: %" PRIu64 " bytes are too few for a safetensors file",
                                  file->label, size);
    int status = catalog_file_read_at(fd, raw, sizeof(raw), 0, file->label, err);
    if (status != LIBSCHED_OK)
        return status;
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | raw[i];
    if (length > size - sizeof(raw))
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "%s: a header of %" PRIu64 " bytes in a file of %" PRIu64
                                  ": truncated, or not safetensors",
                                  file->label, length, size);
    if (length > SAFETENSORS_MAX_HEADER)
        return libsched_error_set(err, LIBSCHED_EBADMODEL,
                                  "%s: a header of %" PRIu64 " bytes, at most %" PRIu64
                                  " are accepted",
                                  file->label, length, SAFETENSORS_MAX_HEADER);

    char *text = malloc(length + 1);
    if (text == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "%s: no memory", file->label);
    status = catalog_file_read_at(fd, text, length, sizeof(raw), file->label, err);
    if (status == LIBSCHED_OK)
        status = catalog_json_parse(&file->header, text, length, HEADER_DEPTH, file->label, err);
    free(text);
    *data_at = sizeof(raw) + length;
    file->data_size = size - *data_at;
    return status;
}

static int open_file(struct safetensors **out, const char *path, bool header_only,
                     libsched_error *err)
{
    *out = NULL;
    struct safetensors *file = calloc(1, sizeof(*file));
    if (file == NULL)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory");
    char quoted[CATALOG_QUOTE_SIZE];
    const char *slash = strrchr(path, '/');
    catalog_quote(quoted, slash != NULL ? slash + 1 : path);
    memcpy(file->label, quoted, strlen(quoted) + 1);

    int fd;
    uint64_t size, data_at = 0;
    int status = catalog_file_open(&fd, &size, path, file->label, err);
    if (status == LIBSCHED_OK) {
        status = read_header(file, fd, size, &data_at, err);
        if (status == LIBSCHED_OK)
            status = read_tensors(file, fd, data_at, header_only, err);
        close(fd);
    }
    if (status != LIBSCHED_OK) {
        safetensors_close(file);
        return status;
    }
    *out = file;
    return LIBSCHED_OK;
}

int safetensors_open(struct safetensors **out, const char *path, libsched_error *err)
{
    return open_file(out, path, false, err);
}

int safetensors_open_header(struct safetensors **out, const char *path, libsched_error *err)
{
    return open_file(out, path, true, err);
}

void safetensors_close(struct safetensors *file)
{
    if (file == NULL)
        return;
    if (file->data != NULL)
        munmap(file->data, file->data_size);
    free(file->tensors);
    json_decref(file->header);
    free(file);
}

const libsched_tensor *safetensors_find(const struct safetensors *file, const char *name)
{
    libsched_tensor key = {.name = name};
    if (file->count == 0)
        return NULL;
    return bsearch(&key, file->tensors, file->count, sizeof(*file->tensors), compare_names);
}

size_t safetensors_count(const struct safetensors *file)
{
    return file->count;
}

const libsched_tensor *safetensors_at(const struct safetensors *file, size_t index)
{
    return index < file->count ? &file->tensors[index] : NULL;
}
