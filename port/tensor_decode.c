/* SPDX-License-Identifier: Apache-2.0 */
#include "tensor_decode.h"

#include <inttypes.h>
#include <stdio.h>

#include "decode.h"
#include "nested.h"

struct decoder {
    struct port *p;
    const struct message *m;
    const char *model;
    struct decoded_inputs *out;
    const char *name; /* of the input at hand */
    libsched_error *err;
};

/* A tensor's map, before it is known which form it has. */
struct tensor_map {
    const msgpack_object *datatype, *shape, *data, *lease, *offset, *size;
};

static int refuse(const struct decoder *d, const char *what)
{
    return libsched_error_set(d->err, LIBSCHED_EINVAL, "inputs.%s: %s", d->name, what);
}

static int read_map(const struct decoder *d, const msgpack_object *o, struct tensor_map *out)
{
    *out = (struct tensor_map){0};
    for (uint32_t i = 0; i < o->via.map.size; i++) {
        const msgpack_object_kv *kv = &o->via.map.ptr[i];
        struct text key = {0};
        decode_text(&kv->key, &key);
        if (text_is(key, "data"))
            out->data = &kv->val;
        else if (text_is(key, "shape"))
            out->shape = &kv->val;
        else if (text_is(key, "datatype"))
            out->datatype = &kv->val;
        else if (text_is(key, "lease"))
            out->lease = &kv->val;
        else if (text_is(key, "offset"))
            out->offset = &kv->val;
        else if (text_is(key, "size"))
            out->size = &kv->val;
        else {
            char what[96];
            snprintf(what, sizeof(what), "inputs.%s", d->name);
            return decode_unknown_key(what, &kv->key,
                                      "datatype, shape, data, lease, offset and size", d->err);
        }
    }
    return LIBSCHED_OK;
}

static int read_datatype(const struct decoder *d, const msgpack_object *o, uint32_t *out)
{
    struct text text;
    if (o == NULL)
        return refuse(d, "datatype is missing");
    if (!decode_text(o, &text))
        return libsched_error_set(d->err, LIBSCHED_EINVAL,
                                  "inputs.%s.datatype has to be a string, got %s", d->name,
                                  decode_kind(o));
    *out = libsched_datatype_parse(text.data, text.size);
    if (*out == 0)
        return libsched_error_set(d->err, LIBSCHED_EINVAL,
                                  "inputs.%s.datatype: \"%.*s\" is none; there are BOOL, UINT8 to "
                                  "UINT64, INT8 to INT64, FP16, BF16, FP32, FP64 and BYTES",
                                  d->name, (int)(text.size < 32 ? text.size : 32), text.data);
    return LIBSCHED_OK;
}

static int read_shape(const struct decoder *d, const msgpack_object *o, libsched_tensor *out)
{
    if (o == NULL)
        return refuse(d, "shape is missing");
    if (o->type != MSGPACK_OBJECT_ARRAY)
        return libsched_error_set(d->err, LIBSCHED_EINVAL,
                                  "inputs.%s.shape has to be an array, got %s", d->name,
                                  decode_kind(o));
    if (o->via.array.size > LIBSCHED_MAX_RANK)
        return libsched_error_set(d->err, LIBSCHED_EINVAL,
                                  "inputs.%s.shape: %" PRIu32
                                  " dimensions, at most %d are possible",
                                  d->name, o->via.array.size, LIBSCHED_MAX_RANK);
    out->rank = o->via.array.size;
    for (uint32_t i = 0; i < out->rank; i++) {
        uint64_t dimension;
        if (!decode_uint(&o->via.array.ptr[i], &dimension) || dimension > INT64_MAX)
            return libsched_error_set(d->err, LIBSCHED_EINVAL,
                                      "inputs.%s.shape[%" PRIu32 "] has to be an integer from 0 on",
                                      d->name, i);
        out->shape[i] = (int64_t)dimension;
    }
    return LIBSCHED_OK;
}

/* Memory for a converted tensor: in the arena where it is large, so that it is written once. */
static int converted_memory(struct decoder *d, uint64_t size, void **data, libsched_buffer **buffer)
{
    *buffer = NULL;
    if (size < READER_LARGE_PAYLOAD) {
        *data = msgpack_zone_malloc(&d->p->zone, (size_t)size + 1);
        if (*data == NULL)
            return libsched_error_set(d->err, LIBSCHED_ENOMEM, "inputs.%s: no memory for it",
                                      d->name);
        return LIBSCHED_OK;
    }
    int rc = libsched_buffer_alloc(d->p->sched, size, buffer, d->err);
    if (rc < 0)
        return rc;
    *data = libsched_buffer_data(*buffer);
    d->out->owned[d->out->n_owned++] = *buffer;
    return LIBSCHED_OK;
}

/* Nested arrays as a tensor of a datatype; shape and all are set. */
static int convert(struct decoder *d, const msgpack_object *value, uint32_t datatype,
                   libsched_tensor *tensor, libsched_buffer **buffer)
{
    char path[96];
    struct nested nested;
    snprintf(path, sizeof(path), "inputs.%s", d->name);
    int rc = nested_measure(&nested, path, value, datatype, d->err);
    if (rc < 0)
        return rc;
    void *data;
    rc = converted_memory(d, nested.size, &data, buffer);
    if (rc < 0)
        return rc;
    rc = nested_write(&nested, data, d->err);
    if (rc < 0)
        return rc;
    tensor->datatype = datatype;
    tensor->rank = nested.rank;
    memcpy(tensor->shape, nested.shape, nested.rank * sizeof(nested.shape[0]));
    tensor->data = data;
    tensor->size = nested.size;
    return LIBSCHED_OK;
}

/* `data` of a tensor's map: bytes as they are, or an array of values. */
static int read_data(struct decoder *d, const struct tensor_map *map, libsched_tensor *tensor,
                     libsched_buffer **buffer)
{
    struct text text;
    if (map->offset != NULL || map->size != NULL)
        return refuse(d, "offset and size go with lease, not with data");
    if (decode_text(map->data, &text)) {
        tensor->data = text.data;
        tensor->size = text.size;
        /* In place where it lies in the arena and is aligned as engines need it; a small one is
         * copied all the same, so that it does not keep a large frame. */
        const struct frame *frame = d->m->frame;
        if (frame != NULL && frame->buffer != NULL && text.size >= READER_LARGE_PAYLOAD &&
            (uintptr_t)text.data % READER_ALIGNMENT == 0)
            *buffer = frame->buffer;
        return LIBSCHED_OK;
    }
    if (map->data->type != MSGPACK_OBJECT_ARRAY)
        return libsched_error_set(d->err, LIBSCHED_EINVAL,
                                  "inputs.%s.data has to be a binary or an array, got %s", d->name,
                                  decode_kind(map->data));

    libsched_tensor stated = *tensor;
    int rc = convert(d, map->data, tensor->datatype, tensor, buffer);
    if (rc < 0)
        return rc;
    int64_t want = libsched_shape_elements(stated.shape, stated.rank);
    int64_t got = libsched_shape_elements(tensor->shape, tensor->rank);
    if (want != got)
        return libsched_error_set(d->err, LIBSCHED_EINVAL,
                                  "inputs.%s: data has %" PRId64
                                  " elements, its shape says %" PRId64,
                                  d->name, got, want);
    tensor->rank = stated.rank;
    memcpy(tensor->shape, stated.shape, sizeof(tensor->shape));
    return LIBSCHED_OK;
}

/* The buffer of a lease, committed when it is named first. */
static int lease_buffer(struct decoder *d, uint32_t id, libsched_buffer **out)
{
    struct decoded_inputs *in = d->out;
    for (uint32_t i = 0; i < in->n_lease_ids; i++)
        if (in->lease_ids[i] == id) {
            *out = in->lease_buffers[i];
            return LIBSCHED_OK;
        }
    int rc = lease_commit(&d->p->leases, d->p->sched, id, &in->leases, out, d->err);
    if (rc < 0)
        return rc;
    in->owned[in->n_owned++] = *out;
    in->lease_ids[in->n_lease_ids] = id;
    in->lease_buffers[in->n_lease_ids++] = *out;
    return LIBSCHED_OK;
}

static int read_lease(struct decoder *d, const struct tensor_map *map, libsched_tensor *tensor,
                      libsched_buffer **buffer)
{
    uint64_t id, offset = 0, size;
    libsched_buffer *memory;

    if (!decode_uint(map->lease, &id) || id > UINT32_MAX)
        return refuse(d, "lease has to be the id of one");
    if (map->offset != NULL && !decode_uint(map->offset, &offset))
        return refuse(d, "offset has to be an integer from 0 on");
    if (map->size == NULL || !decode_uint(map->size, &size))
        return refuse(d, "size has to be there, and an integer from 0 on");

    int rc = lease_buffer(d, (uint32_t)id, &memory);
    if (rc < 0)
        return rc;
    uint64_t held = libsched_buffer_size(memory);
    if (offset > held || size > held - offset)
        return libsched_error_set(d->err, LIBSCHED_EINVAL,
                                  "inputs.%s: %" PRIu64 " bytes at %" PRIu64
                                  ", the lease has %" PRIu64,
                                  d->name, size, offset, held);
    tensor->data = (const char *)libsched_buffer_data(memory) + offset;
    tensor->size = size;
    if (offset % READER_ALIGNMENT == 0)
        *buffer = memory; /* else it is copied to where it is aligned */
    return LIBSCHED_OK;
}

static int read_typed(struct decoder *d, const msgpack_object *o, libsched_tensor *tensor,
                      libsched_buffer **buffer)
{
    struct tensor_map map;
    int rc = read_map(d, o, &map);
    if (rc == LIBSCHED_OK)
        rc = read_datatype(d, map.datatype, &tensor->datatype);
    if (rc == LIBSCHED_OK)
        rc = read_shape(d, map.shape, tensor);
    if (rc < 0)
        return rc;
    if (map.data != NULL && map.lease != NULL)
        return refuse(d, "data and lease, where one of them is expected");
    if (map.data != NULL)
        return read_data(d, &map, tensor, buffer);
    if (map.lease != NULL)
        return read_lease(d, &map, tensor, buffer);
    return refuse(d, "data (or lease) is missing");
}

/* An input that takes several datatypes has a spec for each, one behind the other. */
static bool is_alternative(const libsched_tensor_spec *specs, uint32_t i)
{
    return i > 0 && strcmp(specs[i].name, specs[i - 1].name) == 0;
}

/* The model's spec for the input at hand. */
static int find_spec(const struct decoder *d, const libsched_tensor_spec **out)
{
    const libsched_tensor_spec *specs = d->p->described.specs;
    uint32_t n = d->p->described.n_specs;
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(specs[i].name, d->name) == 0) {
            *out = &specs[i];
            return LIBSCHED_OK;
        }
    char known[160] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < n && used < sizeof(known); i++)
        if (!is_alternative(specs, i))
            used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "",
                                     specs[i].name);
    return libsched_error_set(d->err, LIBSCHED_EINVAL,
                              "inputs.%s: model \"%s\" takes no such input; it takes %s", d->name,
                              d->model, known);
}

static int read_nested(struct decoder *d, const msgpack_object *o, libsched_tensor *tensor,
                       libsched_buffer **buffer)
{
    const libsched_tensor_spec *spec = NULL;
    int rc = find_spec(d, &spec);
    if (rc == LIBSCHED_OK)
        rc = convert(d, o, spec->datatype, tensor, buffer);
    if (rc < 0)
        return rc;
    /* A single value, where the model takes a list of them, is a list of one. */
    if (o->type != MSGPACK_OBJECT_ARRAY)
        for (; tensor->rank < spec->rank; tensor->rank++)
            tensor->shape[tensor->rank] = 1;
    return LIBSCHED_OK;
}

/* Looks up the model's inputs, unless they were looked up last. */
static int describe(struct decoder *d)
{
    struct port *p = d->p;
    if (p->described.specs != NULL && strcmp(p->described.name, d->model) == 0)
        return LIBSCHED_OK;
    p->described.specs = NULL;

    const libsched_tensor_spec *specs;
    uint32_t n;
    int rc = libsched_model_inputs(p->sched, d->model, &specs, &n);
    if (rc == LIBSCHED_ENOMODEL)
        return libsched_error_set(d->err, rc, "no model \"%s\" is loaded", d->model);
    if (rc < 0)
        return libsched_error_set(d->err, rc, "model \"%s\" is not ready", d->model);
    strncpy(p->described.name, d->model, sizeof(p->described.name) - 1);
    p->described.specs = specs;
    p->described.n_specs = n;
    return LIBSCHED_OK;
}

int inputs_decode(struct port *p, const struct message *m, const char *model,
                  const msgpack_object *inputs, struct decoded_inputs *out, libsched_error *err)
{
    struct decoder d = {.p = p, .m = m, .model = model, .out = out, .err = err};

    out->n = out->n_owned = out->n_lease_ids = 0;
    out->leases = REQUEST_NONE;
    if (inputs->type != MSGPACK_OBJECT_MAP)
        return libsched_error_set(err, LIBSCHED_EINVAL, "inputs has to be a map, got %s",
                                  decode_kind(inputs));
    uint32_t n = inputs->via.map.size;
    const msgpack_object_kv *items = inputs->via.map.ptr;
    if (n > LIBSCHED_MAX_TENSORS)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "inputs: %" PRIu32 " tensors, at most %d are possible", n,
                                  LIBSCHED_MAX_TENSORS);

    /* Before any lease is committed it has to be clear that the request can be carried out now. */
    for (uint32_t i = 0; i < n; i++)
        if (items[i].val.type != MSGPACK_OBJECT_MAP) {
            int rc = describe(&d);
            if (rc < 0)
                return rc;
            break;
        }

    for (uint32_t i = 0; i < n; i++) {
        libsched_tensor *tensor = &out->tensors[i];
        libsched_buffer **buffer = &out->buffers[i];
        int rc = decode_name(&p->zone, "the name of an input", &items[i].key, &d.name, err);
        if (rc < 0)
            return rc;
        tensor->name = d.name;
        *buffer = NULL;
        rc = items[i].val.type == MSGPACK_OBJECT_MAP
                 ? read_typed(&d, &items[i].val, tensor, buffer)
                 : read_nested(&d, &items[i].val, tensor, buffer);
        if (rc < 0)
            return rc;
    }
    out->n = n;
    return LIBSCHED_OK;
}

void inputs_release(struct decoded_inputs *inputs)
{
    for (uint32_t i = 0; i < inputs->n_owned; i++)
        libsched_buffer_release(inputs->owned[i]);
    inputs->n_owned = 0;
}
