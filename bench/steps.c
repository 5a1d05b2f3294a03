/* SPDX-License-Identifier: Apache-2.0 */
#include "steps.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/encoder.h"

#define MIXED_SIGMA 0.8
#define MIXED_SEED 20240

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

static void *allocate(size_t n, size_t size)
{
    void *memory = calloc(n, size);

    if (memory == NULL)
        die("a step", "no memory");
    return memory;
}

/* ------------------------------------------------------------------------------------ lengths */

/* xorshift64*, uniform in (0, 1). */
static double random_uniform(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return ((double)((*state * 0x2545f4914f6cdd1du) >> 11) + 0.5) / 0x1p53;
}

static int32_t mixed_length(uint64_t *state)
{
    const double normal =
        sqrt(-2 * log(random_uniform(state))) * cos(6.283185307179586 * random_uniform(state));
    const double mu = log(STEPS_MIXED_MEAN) - MIXED_SIGMA * MIXED_SIGMA / 2;
    const double length = round(exp(mu + MIXED_SIGMA * normal));

    return length < 2 ? 2 : length > STEPS_MAX_LENGTH ? STEPS_MAX_LENGTH : (int32_t)length;
}

/* --------------------------------------------------------------------------------------- steps */

void steps_make(struct steps *out, int32_t length, int32_t batch, int32_t n, uint32_t vocabulary)
{
    /* Where there is room, words rather than what vocabularies begin with. */
    const int32_t first = vocabulary > 21000 ? 1000 : 5;
    const int32_t span = vocabulary > 21000 ? 20000 : (int32_t)vocabulary - first;
    uint64_t random = MIXED_SEED;

    memset(out, 0, sizeof(*out));
    out->length = length;
    out->batch = batch;
    out->n = n;
    out->all = allocate((size_t)n, sizeof(*out->all));
    for (int32_t i = 0; i < n; i++) {
        struct step *s = &out->all[i];

        s->n = batch;
        s->lengths = allocate((size_t)batch, sizeof(*s->lengths));
        for (int32_t j = 0; j < batch; j++) {
            s->lengths[j] = length > 0 ? length : mixed_length(&random);
            s->tokens += s->lengths[j];
        }
        s->ids = allocate((size_t)s->tokens, sizeof(*s->ids));
        for (int64_t t = 0; t < s->tokens; t++)
            s->ids[t] = first + (int32_t)(t * 7919 % span);
        out->sequences += batch;
        out->tokens += s->tokens;
    }
}

void steps_free(struct steps *steps)
{
    for (int32_t i = 0; i < steps->n; i++) {
        free(steps->all[i].lengths);
        free(steps->all[i].ids);
    }
    free(steps->all);
}

/* ---------------------------------------------------------------------------------- the engine */

libsched_engine_model *steps_open(const char *folder, libsched_device *device,
                                  const char *precision, uint32_t threads)
{
    const libsched_parameter parameters[] = {
        {.name = "precision", .type = LIBSCHED_PARAMETER_STRING, .value.string = precision},
        {.name = "max_length", .type = LIBSCHED_PARAMETER_INT, .value.integer = STEPS_MAX_LENGTH},
    };
    const libsched_engine_open_args args = {
        .struct_size = sizeof(args),
        .name = "bench",
        .path = folder,
        .parameters = parameters,
        .n_parameters = sizeof(parameters) / sizeof(parameters[0]),
        .device = device,
        .threads = threads,
    };
    libsched_engine_model *model;
    libsched_error err;

    if (engine_encoder()->open(&model, &args, &err) != LIBSCHED_OK)
        die(folder, err.message);
    return model;
}

void steps_close(libsched_engine_model *model)
{
    engine_encoder()->close(model);
}

/* A step's only item yields one output. */
static void *host_output(void *host, libsched_item *item, const char *name, uint32_t datatype,
                         uint32_t rank, const int64_t *shape, uint64_t size)
{
    struct step_run *run = host;

    (void)item;
    (void)name;
    (void)datatype;
    (void)rank;
    (void)shape;
    if (size > run->room && run->given)
        die("a step", "its output is larger than the room for it");
    if (size > run->room) {
        free(run->output);
        run->output = allocate(1, size);
        run->room = size;
    }
    return run->output;
}

static void host_end(void *host, libsched_item *item, int status, const char *message)
{
    (void)host;
    (void)item;
    if (status != LIBSCHED_OK)
        die("a step", message);
}

static const libsched_engine_host engine_host = {
    .struct_size = sizeof(engine_host), .output = host_output, .end = host_end};

static void fill(struct step_run *run, const struct step *s)
{
    run->inputs[0] = (libsched_tensor){
        .name = "ids",
        .datatype = LIBSCHED_INT32,
        .rank = 1,
        .shape = {s->tokens},
        .data = s->ids,
        .size = (uint64_t)s->tokens * sizeof(int32_t),
    };
    run->inputs[1] = (libsched_tensor){
        .name = "lengths",
        .datatype = LIBSCHED_INT32,
        .rank = 1,
        .shape = {s->n},
        .data = s->lengths,
        .size = (uint64_t)s->n * sizeof(int32_t),
    };
    run->item = (libsched_item){.id = 1, .joined = true, .n_inputs = 2, .inputs = run->inputs};
    run->items[0] = &run->item;
    run->batch = (libsched_engine_batch){
        .struct_size = sizeof(run->batch), .n_items = 1, .items = run->items, .host = run};
}

void steps_run(libsched_engine_model *model, struct step_run *run, const struct step *step)
{
    libsched_error err;

    fill(run, step);
    if (engine_encoder()->step(model, &run->batch, &engine_host, &err) != LIBSCHED_OK)
        die("a step", err.message);
}

void steps_begin(libsched_engine_model *model, struct step_run *run, const struct step *step)
{
    libsched_error err;

    fill(run, step);
    if (engine_encoder()->begin(model, &run->batch, &engine_host, &run->pending, &err) !=
        LIBSCHED_OK)
        die("a step", err.message);
}

void steps_finish(libsched_engine_model *model, struct step_run *run)
{
    libsched_error err;

    if (run->pending && engine_encoder()->finish(model, true, &run->pending, &err) != LIBSCHED_OK)
        die("a step", err.message);
    run->pending = false;
}

void steps_free_run(struct step_run *run)
{
    if (!run->given)
        free(run->output);
    run->output = NULL;
}
