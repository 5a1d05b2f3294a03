/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/worker_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* -------------------------------------------------------------------------------------- sending */

int worker_check_alive(const struct worker *worker, libsched_error *err)
{
    if (worker->has_gone || worker->faulty || worker->stopped || worker->killed)
        return libsched_error_set(err, LIBSCHED_EDEVICELOST, "worker %s is ending", worker->name);
    return LIBSCHED_OK;
}

int worker_send_command(struct worker *worker, enum protocol_command type, libsched_error *err)
{
    if (worker->out.failed)
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to write a command");
    if (worker->out.length > ring_max_payload(&worker->commands))
        return libsched_error_set(err, LIBSCHED_ETOOBIG,
                                  "a command of %zu bytes, at most %" PRIu64 " are possible: send "
                                  "smaller batches or shorter parameters",
                                  worker->out.length, ring_max_payload(&worker->commands));
    if (!ring_write(&worker->commands, type, worker->out.data, (uint32_t)worker->out.length))
        return libsched_error_set(err, LIBSCHED_EBUSY, "worker %s has not taken its commands yet",
                                  worker->name);
    if (ring_must_wake_consumer(&worker->commands))
        worker_ring_bell(worker);
    return LIBSCHED_OK;
}

int worker_send_setup(struct worker *worker, const struct worker_options *options,
                      libsched_error *err)
{
    struct wire_writer *out = &worker->out;
    wire_reset(out);
    wire_put_string(out, options->name);
    wire_put_string(out, options->plugin_path);
    wire_put_string(out, options->driver);
    wire_put_u32(out, options->ordinal);
    wire_put_string(out, options->pci_bus_id);
    wire_put_string(out, options->cpus);
    wire_put_u32(out, options->threads > 0 ? options->threads : 1);
    return worker_send_command(worker, COMMAND_SETUP, err);
}

static int read_share(struct worker *worker, const struct worker_share *share,
                      struct protocol_share *out, libsched_error *err)
{
    if (share->n_ranks < 2 || share->rank >= share->n_ranks || share->id == 0)
        return libsched_error_set(err, LIBSCHED_EINVAL, "loading with others takes several");
    *out = (struct protocol_share){
        .id = share->id,
        .timeout_ns = share->timeout_ns,
        .rank = share->rank,
        .n_ranks = share->n_ranks,
    };
    return worker_pass_shared(worker, share->n_ranks, share->shared, &out->segment, err);
}

int worker_load(struct worker *worker, const struct worker_model *model, libsched_error *err)
{
    int status = worker_check_alive(worker, err);
    if (status < 0)
        return status;
    if (model->name == NULL || strlen(model->name) >= LIBSCHED_NAME_SIZE || model->engine == NULL ||
        strlen(model->engine) >= LIBSCHED_NAME_SIZE)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "a model and its engine need names of at most %d bytes",
                                  LIBSCHED_NAME_SIZE - 1);
    struct protocol_share share = {0};
    if (model->share != NULL)
        status = read_share(worker, model->share, &share, err);
    if (status < 0)
        return status;
    struct wire_writer *out = &worker->out;
    wire_reset(out);
    wire_put_u32(out, model->key);
    wire_put_string(out, model->name);
    wire_put_string(out, model->engine);
    wire_put_string(out, model->library);
    wire_put_string(out, model->path);
    wire_put_u32(out, model->prepare_only);
    wire_put_u32(out, model->n_parameters);
    wire_put_parameters(out, model->parameters, model->n_parameters);
    wire_put(out, &share, sizeof(share));
    status = worker_send_command(worker, COMMAND_LOAD, err);
    if (status == LIBSCHED_OK && share.n_ranks > 1)
        worker->share = share.id;
    if (status == LIBSCHED_OK && share.n_ranks > 1 && share.rank == 0) {
        worker->makes_id = true;
        worker->makes_id_for = model->key;
    }
    return status;
}

int worker_load_id(struct worker *worker, uint32_t key, int status,
                   const unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE])
{
    int rc = worker_check_alive(worker, NULL);
    if (rc < 0)
        return rc;
    wire_reset(&worker->out);
    wire_put_u32(&worker->out, key);
    wire_put_u32(&worker->out, (uint32_t)status);
    wire_put(&worker->out, id, LIBSCHED_COMMUNICATOR_ID_SIZE);
    return worker_send_command(worker, COMMAND_LOAD_ID, NULL);
}

int worker_load_interrupt(struct worker *worker, uint64_t id, libsched_error *err)
{
    if (worker->control < 0)
        return LIBSCHED_OK;
    const struct protocol_segment message = {.flags = PROTOCOL_CANCEL_LOAD, .size = id};
    return worker_send_control(worker, &message, 1, NULL, 0, err);
}

int worker_unload(struct worker *worker, uint32_t key)
{
    int status = worker_check_alive(worker, NULL);
    if (status < 0)
        return status;
    wire_reset(&worker->out);
    wire_put_u32(&worker->out, key);
    return worker_send_command(worker, COMMAND_UNLOAD, NULL);
}

/* ---------------------------------------------------------------------------------------- items */

static bool reserve_slots(struct worker *worker, uint32_t more)
{
    if (more > CHANNEL_ITEMS - worker->n_used)
        return false;
    uint32_t need = worker->n_used + more;
    if (need <= worker->n_slots)
        return true;
    uint32_t n = worker->n_slots > 0 ? worker->n_slots : 64;
    while (n < need)
        n *= 2;
    struct worker_entry *entries = realloc(worker->entries, n * sizeof(*entries));
    if (entries == NULL)
        return false;
    worker->entries = entries;
    for (uint32_t slot = n; slot-- > worker->n_slots;) {
        entries[slot].next = worker->free_slot;
        worker->free_slot = slot;
    }
    worker->n_slots = n;
    return true;
}

bool worker_has_item(const struct worker *worker, uint64_t id, uint64_t batch)
{
    const uint64_t *slot = id_map_find(&worker->items, id);
    return slot != NULL && worker->entries[*slot].batch == batch;
}

bool worker_forget_item(struct worker *worker, uint64_t id, uint64_t batch)
{
    if (!worker_has_item(worker, id, batch))
        return false;
    uint32_t slot = (uint32_t)*id_map_find(&worker->items, id);
    id_map_remove(&worker->items, id);
    worker->entries[slot].next = worker->free_slot;
    worker->free_slot = slot;
    worker->n_used--;
    return true;
}

static void add_item(struct worker *worker, uint64_t id, uint64_t batch)
{
    uint32_t slot = worker->free_slot;
    worker->free_slot = worker->entries[slot].next;
    worker->entries[slot].batch = batch;
    worker->n_used++;
    __atomic_store_n(&worker->incarnation->channel.cancelled[slot], 0, __ATOMIC_RELAXED);
    id_map_add(&worker->items, id, slot);
}

void worker_cancel(struct worker *worker, uint64_t id)
{
    const uint64_t *slot = id_map_find(&worker->items, id);
    if (slot == NULL || worker->has_gone)
        return;
    struct channel *channel = &worker->incarnation->channel;
    __atomic_store_n(&channel->cancelled[*slot], 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&channel->header->cancelled, 1, __ATOMIC_RELEASE);
}

/* ------------------------------------------------------------------------------------- segments */

/* A message's worth of segments to be passed. Each passing has a number of its own: a segment that
 * was dropped and is passed anew must not be taken for the old one, as the socket and the ring are
 * not read in step. */
struct parcel {
    uint32_t n;
    uint32_t ids[PROTOCOL_MAX_SEGMENTS];
    struct protocol_segment messages[PROTOCOL_MAX_SEGMENTS];
    int fds[PROTOCOL_MAX_SEGMENTS];
};

int worker_send_control(struct worker *worker, const struct protocol_segment *messages, uint32_t n,
                        const int *fds, uint32_t n_fds, libsched_error *err)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * PROTOCOL_MAX_SEGMENTS)];
        struct cmsghdr align;
    } ancillary;
    memset(&ancillary, 0, sizeof(ancillary));
    struct iovec io = {.iov_base = (void *)(uintptr_t)messages, .iov_len = n * sizeof(messages[0])};
    struct msghdr header = {.msg_iov = &io, .msg_iovlen = 1};
    if (n_fds > 0) {
        header.msg_control = &ancillary;
        header.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(worker->control, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return LIBSCHED_OK;
    if (errno == EAGAIN || errno == ETOOMANYREFS)
        return libsched_error_set(err, LIBSCHED_EBUSY,
                                  "worker %s has not taken its segments yet: %m", worker->name);
    if (errno == EPIPE || errno == ECONNRESET)
        return libsched_error_set(err, LIBSCHED_EDEVICELOST, "worker %s is ending", worker->name);
    return libsched_error_set(err, LIBSCHED_ESYSTEM, "passing segments to worker %s: %m",
                              worker->name);
}

static int send_parcel(struct worker *worker, struct parcel *parcel, libsched_error *err)
{
    int status =
        worker_send_control(worker, parcel->messages, parcel->n, parcel->fds, parcel->n, err);
    if (status < 0)
        return status;
    for (uint32_t i = 0; i < parcel->n; i++)
        id_map_add(&worker->segments, parcel->ids[i], parcel->messages[i].id);
    parcel->n = 0;
    return LIBSCHED_OK;
}

static bool in_parcel(const struct parcel *parcel, uint32_t id)
{
    for (uint32_t i = 0; i < parcel->n; i++)
        if (parcel->ids[i] == id)
            return true;
    return false;
}

/* Puts a segment that the worker does not have yet into a parcel, which goes when it is full. */
static int add_to_parcel(struct worker *worker, struct parcel *parcel,
                         const struct segment *segment, libsched_error *err)
{
    uint32_t id = segment_id(segment);
    if (id_map_find(&worker->segments, id) != NULL || in_parcel(parcel, id))
        return LIBSCHED_OK;
    if (!id_map_reserve(&worker->segments, parcel->n + 1))
        return libsched_error_set(err, LIBSCHED_ENOMEM, "no memory to pass segments");
    parcel->fds[parcel->n] = segment_fd(segment);
    parcel->ids[parcel->n] = id;
    parcel->messages[parcel->n] =
        (struct protocol_segment){.id = worker->next_passing++,
                                  .flags = segment_is_shared(segment) ? PROTOCOL_WRITABLE
                                           : segment_is_own(segment)  ? PROTOCOL_LASTING
                                                                      : 0,
                                  .size = segment_size(segment)};
    parcel->n++;
    return parcel->n == PROTOCOL_MAX_SEGMENTS ? send_parcel(worker, parcel, err) : LIBSCHED_OK;
}

int worker_pass_segment(struct worker *worker, const struct segment *segment, libsched_error *err)
{
    struct parcel parcel = {0};
    int status = add_to_parcel(worker, &parcel, segment, err);
    return status == LIBSCHED_OK && parcel.n > 0 ? send_parcel(worker, &parcel, err) : status;
}

/* Passes the segments of all inputs. */
static int pass_segments(struct worker *worker, const struct worker_step *step, libsched_error *err)
{
    struct parcel parcel = {0};
    const struct segment *last = NULL;
    for (uint32_t i = 0; i < step->n_joins; i++) {
        const struct worker_item *item = &step->joins[i];
        for (uint32_t k = 0; k < item->n_inputs; k++) {
            if (item->inputs[k].segment == last)
                continue;
            last = item->inputs[k].segment;
            int status = add_to_parcel(worker, &parcel, last, err);
            if (status < 0)
                return status;
        }
    }
    return parcel.n > 0 ? send_parcel(worker, &parcel, err) : LIBSCHED_OK;
}

int worker_pass_shared(struct worker *worker, uint32_t n_ranks, struct segment *shared,
                       uint32_t *number, libsched_error *err)
{
    uint64_t needed = LIBSCHED_COMMUNICATOR_SHARED_SIZE(n_ranks);
    *number = PROTOCOL_NO_SEGMENT;
    if (shared == NULL || !segment_is_shared(shared) || segment_size(shared) < needed)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "%" PRIu32 " ranks need a shared segment of %" PRIu64 " bytes",
                                  n_ranks, needed);
    int status = worker_pass_segment(worker, shared, err);
    if (status == LIBSCHED_OK)
        *number = (uint32_t)*id_map_find(&worker->segments, segment_id(shared));
    return status;
}

void worker_drop_segment(struct worker *worker, const struct segment *segment)
{
    uint32_t id = segment_id(segment);
    const uint64_t *passing = id_map_find(&worker->segments, id);
    if (passing == NULL || worker_check_alive(worker, NULL) < 0)
        return;
    wire_reset(&worker->out);
    wire_put_u32(&worker->out, (uint32_t)*passing);
    /* Where there is no room to say it, the worker keeps its mapping until it ends. */
    if (worker_send_command(worker, COMMAND_DROP_SEGMENT, NULL) == LIBSCHED_OK)
        id_map_remove(&worker->segments, id);
}

/* ---------------------------------------------------------------------------------------- steps */

static int check_input(const struct worker_tensor *input, libsched_error *err)
{
    if (input->name == NULL || strlen(input->name) >= LIBSCHED_NAME_SIZE ||
        input->rank > LIBSCHED_MAX_RANK)
        return libsched_error_set(err, LIBSCHED_EINVAL, "an input without a proper name or rank");
    if (input->segment == NULL || input->offset % 64 != 0 ||
        input->offset > segment_size(input->segment) ||
        input->size > segment_size(input->segment) - input->offset)
        return libsched_error_set(err, LIBSCHED_EINVAL,
                                  "input \"%s\" does not lie at a multiple of 64 in its segment",
                                  input->name);
    return LIBSCHED_OK;
}

/* Checks the items that join, and counts what they bring. */
static int check_joins(const struct worker *worker, const struct worker_step *step,
                       struct protocol_run *run, libsched_error *err)
{
    uint64_t inputs = 0, parameters = 0;
    for (uint32_t i = 0; i < step->n_joins; i++) {
        const struct worker_item *item = &step->joins[i];
        if (item->n_inputs > LIBSCHED_MAX_TENSORS || item->n_parameters > LIBSCHED_MAX_PARAMETERS)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "an item has at most %d inputs and %d parameters",
                                      LIBSCHED_MAX_TENSORS, LIBSCHED_MAX_PARAMETERS);
        if (id_map_find(&worker->items, item->id) != NULL)
            return libsched_error_set(err, LIBSCHED_EINVAL,
                                      "item %" PRIu64 " is in worker %s already", item->id,
                                      worker->name);
        for (uint32_t k = 0; k < item->n_inputs; k++) {
            int status = check_input(&item->inputs[k], err);
            if (status < 0)
                return status;
        }
        inputs += item->n_inputs;
        parameters += item->n_parameters;
    }
    run->n_inputs = (uint32_t)inputs;
    run->n_parameters = (uint32_t)parameters;
    return LIBSCHED_OK;
}

static void put_item(struct worker *worker, const struct worker_item *item, uint32_t slot)
{
    struct wire_writer *out = &worker->out;
    struct protocol_item head = {
        .id = item->id,
        .units = item->units,
        .deadline = item->deadline,
        .slot = slot,
        .n_inputs = item->n_inputs,
        .n_parameters = item->n_parameters,
    };
    wire_put(out, &head, sizeof(head));
    for (uint32_t i = 0; i < item->n_inputs; i++) {
        const struct worker_tensor *input = &item->inputs[i];
        wire_put_string(out, input->name);
        wire_put_u32(out, input->datatype);
        wire_put_shape(out, input->shape, input->rank);
        wire_put_u32(out, (uint32_t)*id_map_find(&worker->segments, segment_id(input->segment)));
        wire_put_u64(out, input->offset);
        wire_put_u64(out, input->size);
    }
    wire_put_parameters(out, item->parameters, item->n_parameters);
}

static void put_run(struct worker *worker, const struct worker_step *step,
                    const struct protocol_run *run)
{
    struct wire_writer *out = &worker->out;
    wire_reset(out);
    wire_put(out, run, sizeof(*run));
    wire_put(out, step->stays, step->n_stays * sizeof(*step->stays));
    wire_put(out, step->leaves, step->n_leaves * sizeof(*step->leaves));
    for (uint32_t i = 0; i < step->n_joins; i++)
        put_item(worker, &step->joins[i],
                 (uint32_t)*id_map_find(&worker->items, step->joins[i].id));
}

/* Takes the first `n` of those that join; false where one of them is named twice. */
static bool add_items(struct worker *worker, const struct worker_step *step, uint32_t *n)
{
    for (*n = 0; *n < step->n_joins; ++*n) {
        if (id_map_find(&worker->items, step->joins[*n].id) != NULL)
            return false;
        add_item(worker, step->joins[*n].id, step->batch);
    }
    return true;
}

/* Gives the memory of an unusually large command back. */
static void trim_writer(struct wire_writer *out)
{
    if (out->capacity > (size_t)1 << 20)
        wire_writer_free(out);
}

int worker_run(struct worker *worker, const struct worker_step *step, libsched_error *err)
{
    struct protocol_run run = {
        .batch = step->batch,
        .key = step->key,
        .step = step->step,
        .prepare = step->prepare,
        .ends = step->ends,
        .n_joins = step->n_joins,
        .n_stays = step->n_stays,
        .n_leaves = step->n_leaves,
    };
    int status = worker_check_alive(worker, err);
    if (status == 0)
        status = check_joins(worker, step, &run, err);
    if (status == 0 && step->n_joins > CHANNEL_ITEMS - worker->n_used)
        status = libsched_error_set(err, LIBSCHED_EBUSY,
                                    "worker %s holds %" PRIu32 " items, %u are possible",
                                    worker->name, worker->n_used, CHANNEL_ITEMS);
    if (status == 0 &&
        (!reserve_slots(worker, step->n_joins) || !id_map_reserve(&worker->items, step->n_joins)))
        status = libsched_error_set(err, LIBSCHED_ENOMEM, "no memory for a batch");
    if (status == 0)
        status = pass_segments(worker, step, err);
    if (status < 0)
        return status;

    uint32_t added;
    if (!add_items(worker, step, &added)) {
        status = libsched_error_set(err, LIBSCHED_EINVAL, "item %" PRIu64 " joins twice",
                                    step->joins[added].id);
    } else {
        put_run(worker, step, &run);
        status = worker_send_command(worker, COMMAND_RUN, err);
        trim_writer(&worker->out);
    }
    if (status < 0)
        for (uint32_t i = 0; i < added; i++)
            worker_forget_item(worker, step->joins[i].id, step->batch);
    return status;
}
