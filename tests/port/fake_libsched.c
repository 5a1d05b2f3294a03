/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_libsched.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAX_MODELS 32
#define MAX_WAITING 65536
#define MAX_JOBS 8

struct libsched_buffer {
    void *data;
    uint64_t size;
    bool imported;
    int references;
};

struct fake_request {
    uint64_t id, user, deadline;
    uint32_t parts_left, credit, parts_sent;
    bool want_parts, is_parts;
    struct fake_request *next;
};

/* What a completion points to; one allocation each. */
struct fake_completion {
    libsched_completion c;
    char message[128];
    char name[LIBSCHED_NAME_SIZE];
    libsched_tensor outputs[LIBSCHED_MAX_TENSORS];
    char names[LIBSCHED_MAX_TENSORS][LIBSCHED_NAME_SIZE];
    void *data[LIBSCHED_MAX_TENSORS];
    struct fake_completion *next;
};

struct fake_model {
    char name[LIBSCHED_NAME_SIZE];
    uint32_t state;
    int status;
    libsched_counters counters;
};

struct fake_job {
    uint64_t id; /* 0: none */
    bool reservation;
    uint32_t n_devices;
    char name[LIBSCHED_NAME_SIZE], program[LIBSCHED_NAME_SIZE], client[LIBSCHED_NAME_SIZE];
};

struct libsched {
    int fd;
    uint64_t last_job;
    struct fake_job jobs[MAX_JOBS];
    uint64_t next_id, opened;
    bool draining;
    struct fake_model models[MAX_MODELS];
    uint32_t n_models;
    struct fake_request *requests;
    struct fake_completion *first, **last;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static libsched *the_scheduler;
static atomic_int n_buffers, n_completions, in_place;
static atomic_ullong spin_budget = 20000;

static const libsched_tensor_spec inputs[] = {
    {"text", LIBSCHED_BYTES, 1, {-1}, true},      {"ids", LIBSCHED_INT64, 2, {-1, -1}, true},
    {"values", LIBSCHED_FP32, 2, {-1, -1}, true}, {"half", LIBSCHED_FP16, 1, {-1}, true},
    {"small", LIBSCHED_INT8, 1, {-1}, true},      {"mask", LIBSCHED_BOOL, 1, {-1}, true},
};
#define N_INPUTS (sizeof(inputs) / sizeof(inputs[0]))

const char *libsched_version(void)
{
    return "0.0.0-fake";
}

uint64_t libsched_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void wake(libsched *s)
{
    uint64_t one = 1;
    ssize_t rc = write(s->fd, &one, sizeof(one));
    (void)rc;
}

/* ---------------------------------------------------------------------------------- completions */

static struct fake_completion *add_completion(libsched *s, uint32_t kind, int status,
                                              const char *message)
{
    struct fake_completion *f = calloc(1, sizeof(*f));
    f->c.kind = kind;
    f->c.status = status;
    snprintf(f->message, sizeof(f->message), "%s", message);
    f->c.message = f->message;
    f->c.outputs = f->outputs;
    f->c.attempts = 1;
    f->c.batch_size = 1;
    f->c.name = f->name;
    f->c.handle = f;
    *s->last = f;
    s->last = &f->next;
    n_completions++;
    wake(s);
    return f;
}

static void *add_output(struct fake_completion *f, const char *name, uint32_t datatype,
                        uint32_t rank, const int64_t *shape, const void *data, uint64_t size)
{
    uint32_t i = f->c.n_outputs++;
    snprintf(f->names[i], LIBSCHED_NAME_SIZE, "%s", name);
    f->data[i] = calloc(1, size + 1);
    if (data != NULL && size > 0)
        memcpy(f->data[i], data, size);
    f->outputs[i] = (libsched_tensor){
        .name = f->names[i], .datatype = datatype, .rank = rank, .data = f->data[i], .size = size};
    memcpy(f->outputs[i].shape, shape, rank * sizeof(*shape));
    return f->data[i];
}

size_t libsched_reap(libsched *s, libsched_completion *out, size_t max)
{
    size_t n = 0;
    pthread_mutex_lock(&lock);
    while (n < max && s->first != NULL) {
        struct fake_completion *f = s->first;
        s->first = f->next;
        if (s->first == NULL)
            s->last = &s->first;
        out[n++] = f->c;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

static void free_completion(struct fake_completion *f)
{
    for (uint32_t i = 0; i < f->c.n_outputs; i++)
        free(f->data[i]);
    free(f);
    n_completions--;
}

void libsched_release(libsched *s, libsched_completion *completions, size_t n)
{
    (void)s;
    for (size_t i = 0; i < n; i++)
        free_completion(completions[i].handle);
}

/* -------------------------------------------------------------------------------- open and close
 */

static void add_model(libsched *s, const char *name, uint32_t state)
{
    struct fake_model *m = &s->models[s->n_models++];
    *m = (struct fake_model){.state = state};
    snprintf(m->name, sizeof(m->name), "%s", name);
}

int libsched_open(libsched **out, const libsched_options *options, libsched_error *err)
{
    static const char *const names[] = {"echo", "parts", "stuck", "big", "full", "broken", "liar"};
    if (options->cpu_devices == 1024)
        return libsched_error_set(err, LIBSCHED_EINVAL, "1024 devices are too many");
    libsched *s = calloc(1, sizeof(*s));
    s->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->last = &s->first;
    s->next_id = 1;
    s->opened = libsched_now();
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        add_model(s, names[i], LIBSCHED_MODEL_READY);
    pthread_mutex_lock(&lock);
    the_scheduler = s;
    pthread_mutex_unlock(&lock);
    *out = s;
    return LIBSCHED_OK;
}

void libsched_close(libsched *s)
{
    if (s == NULL)
        return;
    pthread_mutex_lock(&lock);
    the_scheduler = NULL;
    pthread_mutex_unlock(&lock);
    while (s->first != NULL) {
        struct fake_completion *f = s->first;
        s->first = f->next;
        free_completion(f);
    }
    while (s->requests != NULL) {
        struct fake_request *r = s->requests;
        s->requests = r->next;
        free(r);
    }
    close(s->fd);
    free(s);
}

void libsched_drain(libsched *s)
{
    s->draining = true;
}

int libsched_fd(const libsched *s)
{
    return s->fd;
}

/* Takes a request out of the list. */
static void unlink_request(libsched *s, struct fake_request *r)
{
    struct fake_request **at = &s->requests;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    free(r);
}

static void end_request(libsched *s, struct fake_request *r, int status, const char *message)
{
    struct fake_completion *f = add_completion(s, LIBSCHED_END, status, message);
    f->c.id = r->id;
    f->c.user = r->user;
    unlink_request(s, r);
}

/* Sends what parts there is credit for. */
static void send_parts(libsched *s, struct fake_request *r)
{
    while (r->parts_left > 0 && r->credit > 0) {
        int64_t one = 1, value = (int64_t)r->parts_sent++;
        struct fake_completion *f = add_completion(s, LIBSCHED_PART, LIBSCHED_OK, "");
        f->c.id = r->id;
        f->c.user = r->user;
        add_output(f, "value", LIBSCHED_INT64, 1, &one, &value, 8);
        r->parts_left--;
        r->credit--;
    }
    if (r->parts_left == 0)
        end_request(s, r, LIBSCHED_OK, "");
}

int libsched_process(libsched *s, uint32_t flags)
{
    uint64_t count;
    int n = 0;
    (void)flags;
    pthread_mutex_lock(&lock);
    if (read(s->fd, &count, sizeof(count)) > 0)
        n = 1;
    uint64_t now = libsched_now();
    for (struct fake_request *r = s->requests, *next; r != NULL; r = next) {
        next = r->next;
        if (r->deadline != 0 && r->deadline <= now)
            end_request(s, r, LIBSCHED_EDEADLINE, "its deadline passed");
    }
    pthread_mutex_unlock(&lock);
    return n;
}

uint64_t libsched_spin_budget(const libsched *s)
{
    (void)s;
    return spin_budget;
}

void fake_set_spin_budget(uint64_t ns)
{
    spin_budget = ns;
}

/* --------------------------------------------------------------------------------------- devices
 */

static libsched_device_readings gpu_readings;

void fake_add_gpu(const libsched_device_readings *readings)
{
    gpu_readings = *readings;
}

uint32_t libsched_device_count(const libsched *s)
{
    (void)s;
    return gpu_readings.struct_size == 0 ? 1 : 2;
}

int libsched_device_get(libsched *s, uint32_t index, libsched_device_info *out)
{
    (void)s;
    if (index >= libsched_device_count(s))
        return LIBSCHED_ENODEVICE;
    if (index == 1) {
        out->kind = LIBSCHED_DEVICE_GPU;
        out->state = LIBSCHED_DEVICE_UP;
        strcpy(out->name, "gpu:0");
        strcpy(out->pci, "0000:01:00.0");
        return LIBSCHED_OK;
    }
    out->kind = LIBSCHED_DEVICE_CPU;
    out->state = LIBSCHED_DEVICE_UP;
    strcpy(out->name, "cpu:0");
    strcpy(out->model, "made up");
    strcpy(out->cpus, "0-1");
    out->numa_node = -1;
    out->cores = 2;
    return LIBSCHED_OK;
}

int libsched_device_get_readings(libsched *s, uint32_t index, libsched_device_readings *out)
{
    if (index >= libsched_device_count(s))
        return LIBSCHED_ENODEVICE;
    if (index == 1)
        *out = gpu_readings;
    return LIBSCHED_OK;
}

/* ---------------------------------------------------------------------------------------- models
 */

static struct fake_model *find_model(libsched *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_models; i++)
        if (strcmp(s->models[i].name, name) == 0)
            return &s->models[i];
    return NULL;
}

static void announce(libsched *s, const char *name, uint32_t state, int status)
{
    struct fake_completion *f =
        add_completion(s, LIBSCHED_MODEL, status, status < 0 ? "its files are made up" : "");
    snprintf(f->name, sizeof(f->name), "%s", name);
    f->c.state = state;
}

int libsched_model_load(libsched *s, const libsched_model_options *options, libsched_error *err)
{
    int rc = LIBSCHED_OK;
    pthread_mutex_lock(&lock);
    if (s->draining)
        rc = libsched_error_set(err, LIBSCHED_ECLOSING, "the scheduler is shutting down");
    else if (find_model(s, options->name) != NULL)
        rc = libsched_error_set(err, LIBSCHED_EEXIST, "model \"%s\" is loaded", options->name);
    else if (s->n_models == MAX_MODELS)
        rc = libsched_error_set(err, LIBSCHED_EBUSY, "too many models");
    else {
        bool instant = options->engine != NULL && strcmp(options->engine, "instant") == 0;
        add_model(s, options->name, instant ? LIBSCHED_MODEL_READY : LIBSCHED_MODEL_LOADING);
        if (instant)
            announce(s, options->name, LIBSCHED_MODEL_READY, LIBSCHED_OK);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

void fake_finish_load(const char *name, int status)
{
    pthread_mutex_lock(&lock);
    struct fake_model *m = the_scheduler != NULL ? find_model(the_scheduler, name) : NULL;
    if (m != NULL) {
        m->state = status == LIBSCHED_OK ? LIBSCHED_MODEL_READY : LIBSCHED_MODEL_FAILED;
        m->status = status;
        announce(the_scheduler, name, m->state, status);
    }
    pthread_mutex_unlock(&lock);
}

int libsched_model_unload(libsched *s, const char *name, libsched_error *err)
{
    int rc = LIBSCHED_OK;
    pthread_mutex_lock(&lock);
    struct fake_model *m = find_model(s, name);
    if (m == NULL)
        rc = libsched_error_set(err, LIBSCHED_ENOMODEL, "no model \"%s\" is loaded", name);
    else {
        announce(s, name, LIBSCHED_MODEL_GONE, LIBSCHED_OK);
        *m = s->models[--s->n_models];
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

uint32_t libsched_model_count(const libsched *s)
{
    return s->n_models;
}

static void fill_info(const struct fake_model *m, libsched_model_info *out)
{
    out->state = m->state;
    strcpy(out->name, m->name);
    strcpy(out->engine, "fake");
    strcpy(out->text, "made up");
    if (m->status < 0)
        libsched_error_set(&out->error, m->status, "its files are made up");
    out->devices = 1;
    if (m->state == LIBSCHED_MODEL_READY) {
        out->n_inputs = N_INPUTS;
        memcpy(out->inputs, inputs, sizeof(inputs));
    }
    out->max_batch_requests = 1;
    out->queue_limit = 1;
    out->counters = m->counters;
}

int libsched_model_get(libsched *s, uint32_t index, libsched_model_info *out)
{
    pthread_mutex_lock(&lock);
    int rc = index < s->n_models ? LIBSCHED_OK : LIBSCHED_ENOMODEL;
    if (rc == LIBSCHED_OK)
        fill_info(&s->models[index], out);
    pthread_mutex_unlock(&lock);
    return rc;
}

int libsched_model_find(libsched *s, const char *name, libsched_model_info *out)
{
    pthread_mutex_lock(&lock);
    const struct fake_model *m = find_model(s, name);
    if (m != NULL)
        fill_info(m, out);
    pthread_mutex_unlock(&lock);
    return m != NULL ? LIBSCHED_OK : LIBSCHED_ENOMODEL;
}

int libsched_model_inputs(libsched *s, const char *name, const libsched_tensor_spec **specs,
                          uint32_t *n_specs)
{
    pthread_mutex_lock(&lock);
    const struct fake_model *m = find_model(s, name);
    int rc = m == NULL                          ? LIBSCHED_ENOMODEL
             : m->state != LIBSCHED_MODEL_READY ? LIBSCHED_ENOTREADY
                                                : LIBSCHED_OK;
    pthread_mutex_unlock(&lock);
    *specs = inputs;
    *n_specs = N_INPUTS;
    return rc;
}

/* --------------------------------------------------------------------------------------- buffers
 */

int libsched_buffer_alloc(libsched *s, uint64_t size, libsched_buffer **out, libsched_error *err)
{
    (void)s;
    if (size > (uint64_t)256 << 20)
        return libsched_error_set(err, LIBSCHED_ETOOBIG, "the arena has 256 MiB");
    libsched_buffer *b = calloc(1, sizeof(*b));
    b->data = aligned_alloc(64, (size + 63) / 64 * 64 + 64);
    b->size = size;
    b->references = 1;
    n_buffers++;
    *out = b;
    return LIBSCHED_OK;
}

int libsched_buffer_import(libsched *s, int fd, uint64_t size, libsched_buffer **out,
                           libsched_error *err)
{
    (void)s;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_WRITE)) != (F_SEAL_SHRINK | F_SEAL_WRITE))
        return libsched_error_set(err, LIBSCHED_EINVAL, "the memory is not sealed");
    void *data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "mmap failed");
    libsched_buffer *b = calloc(1, sizeof(*b));
    *b = (libsched_buffer){.data = data, .size = size, .imported = true, .references = 1};
    n_buffers++;
    *out = b;
    return LIBSCHED_OK;
}

void *libsched_buffer_data(const libsched_buffer *buffer)
{
    return buffer->data;
}

uint64_t libsched_buffer_size(const libsched_buffer *buffer)
{
    return buffer->size;
}

void libsched_buffer_retain(libsched_buffer *buffer)
{
    buffer->references++;
}

void libsched_buffer_release(libsched_buffer *buffer)
{
    if (buffer == NULL || --buffer->references > 0)
        return;
    if (buffer->imported)
        munmap(buffer->data, buffer->size);
    else
        free(buffer->data);
    free(buffer);
    n_buffers--;
}

int fake_buffers(void)
{
    return n_buffers;
}

int fake_completions(void)
{
    return n_completions;
}

int fake_inputs_in_place(void)
{
    return in_place;
}

/* -------------------------------------------------------------------------------------- requests
 */

static int64_t integer_parameter(const libsched_request *r, const char *name, int64_t otherwise)
{
    const libsched_parameter *p = libsched_parameter_find(r->parameters, r->n_parameters, name);
    return p != NULL && p->type == LIBSCHED_PARAMETER_INT ? p->value.integer : otherwise;
}

static void run(libsched *s, const libsched_request *request, struct fake_request *r)
{
    const char *model = request->model;
    struct fake_completion *f;

    if (strcmp(model, "stuck") == 0)
        return;
    if (strcmp(model, "parts") == 0) {
        r->parts_left = (uint32_t)integer_parameter(request, "n", 3);
        r->is_parts = true;
        if (r->want_parts)
            send_parts(s, r);
        else
            end_request(s, r, LIBSCHED_OK, "");
        return;
    }
    bool broken = strcmp(model, "broken") == 0;
    f = add_completion(s, LIBSCHED_END, broken ? LIBSCHED_EENGINE : LIBSCHED_OK,
                       broken ? "the engine was made to fail" : "");
    f->c.id = r->id;
    f->c.user = r->user;
    if (strcmp(model, "big") == 0) {
        int64_t size = integer_parameter(request, "bytes", 1);
        uint8_t *data = add_output(f, "data", LIBSCHED_UINT8, 1, &size, NULL, (uint64_t)size);
        for (int64_t i = 0; i < size; i++)
            data[i] = (uint8_t)(i * 7);
    } else if (strcmp(model, "liar") == 0) {
        int64_t two = 2;
        add_output(f, "text", LIBSCHED_BYTES, 1, &two, "\x01\0\0\0a\xff\0\0\0b", 10);
    } else if (!broken) {
        for (uint32_t i = 0; i < request->n_inputs; i++) {
            const libsched_tensor *t = &request->inputs[i];
            add_output(f, t->name, t->datatype, t->rank, t->shape, t->data, t->size);
        }
    }
    unlink_request(s, r);
}

int libsched_submit(libsched *s, const libsched_request *request, uint64_t *id, libsched_error *err)
{
    *id = 0;
    if (s->draining)
        return libsched_error_set(err, LIBSCHED_ECLOSING, "the scheduler is shutting down");
    pthread_mutex_lock(&lock);
    struct fake_model *m = find_model(s, request->model);
    int rc = LIBSCHED_OK;
    if (m == NULL)
        rc =
            libsched_error_set(err, LIBSCHED_ENOMODEL, "no model \"%s\" is loaded", request->model);
    else if (strcmp(m->name, "full") == 0) {
        *id = 7000000;
        rc = libsched_error_set(err, LIBSCHED_EQUEUEFULL, "its queue is full");
    }
    in_place = 0;
    for (uint32_t i = 0; rc == LIBSCHED_OK && i < request->n_inputs; i++) {
        rc = libsched_tensor_check(&request->inputs[i], err);
        in_place += request->buffers != NULL && request->buffers[i] != NULL;
    }
    if (rc == LIBSCHED_OK) {
        struct fake_request *r = calloc(1, sizeof(*r));
        *id = r->id = s->next_id++;
        r->user = request->user;
        r->want_parts = (request->flags & LIBSCHED_WANT_PARTS) != 0;
        r->credit = request->part_credit;
        r->deadline = request->timeout_ns > 0 ? libsched_now() + request->timeout_ns : 0;
        r->next = s->requests;
        s->requests = r;
        m->counters.submitted++;
        run(s, request, r);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

static struct fake_request *find_request(libsched *s, uint64_t id)
{
    struct fake_request *r = s->requests;
    while (r != NULL && r->id != id)
        r = r->next;
    return r;
}

int libsched_cancel(libsched *s, uint64_t id)
{
    pthread_mutex_lock(&lock);
    struct fake_request *r = find_request(s, id);
    if (r != NULL)
        end_request(s, r, LIBSCHED_ECANCELED, "cancelled");
    pthread_mutex_unlock(&lock);
    return r != NULL ? LIBSCHED_OK : LIBSCHED_ENOENT;
}

int libsched_grant(libsched *s, uint64_t id, uint32_t n)
{
    pthread_mutex_lock(&lock);
    struct fake_request *r = find_request(s, id);
    if (r != NULL) {
        r->credit += n;
        if (r->is_parts)
            send_parts(s, r);
    }
    pthread_mutex_unlock(&lock);
    return r != NULL ? LIBSCHED_OK : LIBSCHED_ENOENT;
}

int libsched_get_stats(libsched *s, libsched_stats *out)
{
    out->uptime_ns = libsched_now() - s->opened;
    return LIBSCHED_OK;
}

int libsched_model_histograms(libsched *s, const char *name, libsched_histograms *out)
{
    (void)s;
    if (name == NULL)
        return LIBSCHED_ENOMODEL;
    out->queue_us[0] = 1;
    out->batch[LIBSCHED_HISTOGRAM_BUCKETS - 1] = 9;
    out->batch_sum = 90;
    return LIBSCHED_OK;
}

/* ------------------------------------------------------------------------------------------ jobs
 */

static const libsched_parameter job_values[] = {
    {.name = "ranks", .type = LIBSCHED_PARAMETER_INT, .value.integer = 2},
    {.name = "loss", .type = LIBSCHED_PARAMETER_FLOAT, .value.real = 0.5},
    {.name = "fits", .type = LIBSCHED_PARAMETER_BOOL, .value.boolean = true},
    {.name = "path", .type = LIBSCHED_PARAMETER_STRING, .value.string = "/tmp/made-up\xff"},
};

static struct fake_job *find_job(libsched *s, uint64_t id)
{
    for (uint32_t i = 0; i < MAX_JOBS; i++)
        if (id != 0 && s->jobs[i].id == id)
            return &s->jobs[i];
    return NULL;
}

static void tell_job(libsched *s, const struct fake_job *job, uint32_t state, int status,
                     const char *message)
{
    struct fake_completion *f = add_completion(s, LIBSCHED_JOB, status, message);
    snprintf(f->name, sizeof(f->name), "%s", job->name);
    f->c.id = job->id;
    f->c.state = state;
    f->c.done = state == LIBSCHED_JOB_ENDED ? 3 : 1;
    f->c.total = 3;
    f->c.devices = 1;
    if (state == LIBSCHED_JOB_ENDED && status == LIBSCHED_OK) {
        f->c.values = job_values;
        f->c.n_values = sizeof(job_values) / sizeof(job_values[0]);
    }
}

static void end_job(libsched *s, struct fake_job *job, int status, const char *message)
{
    tell_job(s, job, LIBSCHED_JOB_ENDED, status, message);
    job->id = 0;
}

static int add_job(libsched *s, const libsched_job_options *options, uint64_t *id,
                   libsched_error *err)
{
    bool reservation = (options->flags & LIBSCHED_JOB_RESERVE) != 0;
    const char *program = reservation ? "" : options->program;
    if (options->n_devices > 1)
        return libsched_error_set(err, LIBSCHED_ENODEVICE, "there is one device");
    if (strcmp(program, "full") == 0)
        return libsched_error_set(err, LIBSCHED_EBUSY, "too many jobs");
    struct fake_job *job = s->jobs;
    while (job < s->jobs + MAX_JOBS && job->id != 0)
        job++;
    if (job == s->jobs + MAX_JOBS)
        return libsched_error_set(err, LIBSCHED_EBUSY, "too many jobs");
    *job = (struct fake_job){.id = ++s->last_job, .reservation = reservation, .n_devices = 1};
    snprintf(job->name, sizeof(job->name), "%s", options->name != NULL ? options->name : "job");
    snprintf(job->program, sizeof(job->program), "%s", program);
    snprintf(job->client, sizeof(job->client), "%s",
             options->client != NULL ? options->client : "");
    *id = job->id;
    tell_job(s, job, LIBSCHED_JOB_RUNNING, LIBSCHED_OK, "under way");
    if (strcmp(program, "done") == 0)
        end_job(s, job, LIBSCHED_OK, "done");
    if (strcmp(program, "fail") == 0)
        end_job(s, job, LIBSCHED_EENGINE, "it was made to fail");
    return LIBSCHED_OK;
}

int libsched_job_submit(libsched *s, const libsched_job_options *options, uint64_t *id,
                        libsched_error *err)
{
    pthread_mutex_lock(&lock);
    int rc = add_job(s, options, id, err);
    pthread_mutex_unlock(&lock);
    return rc;
}

int libsched_job_cancel(libsched *s, uint64_t id)
{
    pthread_mutex_lock(&lock);
    struct fake_job *job = find_job(s, id);
    if (job != NULL)
        end_job(s, job, LIBSCHED_ECANCELED, "it was cancelled");
    pthread_mutex_unlock(&lock);
    return job != NULL ? LIBSCHED_OK : LIBSCHED_ENOENT;
}

int libsched_job_release(libsched *s, uint64_t id)
{
    int rc = LIBSCHED_OK;
    pthread_mutex_lock(&lock);
    struct fake_job *job = find_job(s, id);
    if (job == NULL)
        rc = LIBSCHED_ENOENT;
    else if (!job->reservation)
        rc = LIBSCHED_EINVAL;
    else
        end_job(s, job, LIBSCHED_OK, "");
    pthread_mutex_unlock(&lock);
    return rc;
}

static void fill_job(const struct fake_job *job, libsched_job_info *out)
{
    out->state = LIBSCHED_JOB_RUNNING;
    out->id = job->id;
    strcpy(out->name, job->name);
    strcpy(out->program, job->program);
    strcpy(out->client, job->client);
    strcpy(out->text, "made up");
    strcpy(out->why, "has cpu:0");
    out->n_devices = 1;
    out->devices = 1;
    out->step = 7;
    out->done = 1;
    out->total = 3;
    out->run_ns = 5000000;
}

uint32_t libsched_job_count(const libsched *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < MAX_JOBS; i++)
        n += s->jobs[i].id != 0;
    return n;
}

int libsched_job_get(libsched *s, uint32_t index, libsched_job_info *out)
{
    for (uint32_t i = 0; i < MAX_JOBS; i++)
        if (s->jobs[i].id != 0 && index-- == 0) {
            fill_job(&s->jobs[i], out);
            return LIBSCHED_OK;
        }
    return LIBSCHED_ENOENT;
}

int libsched_job_find(libsched *s, uint64_t id, libsched_job_info *out)
{
    const struct fake_job *job = find_job(s, id);
    if (job == NULL)
        return LIBSCHED_ENOENT;
    fill_job(job, out);
    return LIBSCHED_OK;
}
