/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steps of the encoder as an engine by itself, without a scheduler: of token ids, as prepare()
 * would have made them of texts. Whatever fails ends the program.
 */
#ifndef BENCH_STEPS_H
#define BENCH_STEPS_H

#include <stdint.h>

#include <libsched/device.h>
#include <libsched/engine.h>

/* Of a sequence. */
#define STEPS_MAX_LENGTH 512
/* Of lengths "mixed", on average: these are log-normal, from a fixed seed. */
#define STEPS_MIXED_MEAN 49

/* What one step computes. */
struct step {
    int32_t n, *lengths, *ids;
    int64_t tokens;
};

struct steps {
    int32_t length; /* 0: mixed */
    int32_t batch;  /* sequences in a step */
    int32_t n;
    struct step *all;
    int64_t sequences, tokens; /* of all steps */
};

/* Ids are those of a vocabulary of so many. */
void steps_make(struct steps *out, int32_t length, int32_t batch, int32_t n, uint32_t vocabulary);
void steps_free(struct steps *steps);

libsched_engine_model *steps_open(const char *folder, libsched_device *device,
                                  const char *precision, uint32_t threads);
void steps_close(libsched_engine_model *model);

/* A step under way, and what comes of it. Zeroed at first; may be used again and again. */
struct step_run {
    float *output; /* [n, hidden] */
    uint64_t room; /* of it, in bytes */
    bool given;    /* by the caller, with enough room: it is not allocated anew */
    bool pending;
    libsched_tensor inputs[2];
    libsched_item item, *items[1];
    libsched_engine_batch batch;
};

void steps_run(libsched_engine_model *model, struct step_run *run, const struct step *step);
/* In two parts, where the engine can: at most two are under way, and end in their order. */
void steps_begin(libsched_engine_model *model, struct step_run *run, const struct step *step);
void steps_finish(libsched_engine_model *model, struct step_run *run);
void steps_free_run(struct step_run *run);

#endif
