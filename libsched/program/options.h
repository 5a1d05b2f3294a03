/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parameters of a program, read with words for what is wrong with them, and its results.
 *
 * A reader takes each parameter once; what is left at the end is a parameter that the program does
 * not have. All of them fail with LIBSCHED_EINVAL.
 */
#ifndef PROGRAM_OPTIONS_H
#define PROGRAM_OPTIONS_H

#include <libsched/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

struct option_reader {
    const libsched_program_args *args;
    const char *program; /* for messages */
    uint32_t taken;      /* a bit for each parameter */
    libsched_error *err;
    int status; /* the first failure; then the readers below do nothing */
};

void options_begin(struct option_reader *reader, const libsched_program_args *args,
                   const char *program, libsched_error *err);
/* Where a parameter is absent, `*inout` keeps what it holds. True: it was there. */
bool options_integer(struct option_reader *reader, const char *name, uint64_t min, uint64_t max,
                     uint64_t *inout);
/* An integer is a number as well. */
bool options_real(struct option_reader *reader, const char *name, double min, double max,
                  double *inout);
/* LIBSCHED_FP32 for "f32", LIBSCHED_BF16 for "bf16". */
bool options_datatype(struct option_reader *reader, const char *name, uint32_t *inout);
/* The index of a string in a list, which ends with NULL. */
bool options_choice(struct option_reader *reader, const char *name, const char *const *choices,
                    uint32_t *inout);
/* A path that has to be there and absolute; it is the parameter's own. */
void options_path(struct option_reader *reader, const char *name, const char **out);
/* The status, once nothing that is left is unknown. `known` lists the names for the message. */
int options_end(struct option_reader *reader, const char *known);

/* A value of the result. */
int result_integer(const libsched_program_host *host, void *host_data, const char *name,
                   uint64_t value);
int result_real(const libsched_program_host *host, void *host_data, const char *name, double value);
int result_text(const libsched_program_host *host, void *host_data, const char *name,
                const char *value);

/* "4 KiB", "1.5 GiB": `out` is `size` bytes. */
void options_bytes_text(char *out, size_t size, uint64_t bytes);

/* The clock of the device's host, in nanoseconds. */
uint64_t program_now(void);

#ifdef __cplusplus
}
#endif

#endif
