/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CUDA device, inside: its objects, and what its files may call of each other.
 *
 * Three streams: one computes, one copies to the device, one copies from it. What the caller sees
 * is one order, so each object remembers the last work on each stream that touched it (its
 * tickets), and work on another stream waits for that, and for nothing else.
 *
 * Every error comes through cuda_check(). One that the process can't live with makes the device
 * lost: from then on no CUDA function is called, since what failed could hang in it.
 */
#ifndef CUDA_INTERNAL_H
#define CUDA_INTERNAL_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <libsched/device.h>

#include "kernels/kernels.h"

enum cuda_stream { CUDA_COMPUTE, CUDA_UPLOAD, CUDA_DOWNLOAD, CUDA_STREAMS };

/* Device memory, and who touched it last. */
struct cuda_span {
    void *data;
    uint64_t size;
    uint64_t tickets[CUDA_STREAMS];
};

struct cuda_lane {
    cudaStream_t stream;
    uint64_t ticket;               /* of the last work that was given to it */
    uint64_t ended;                /* all up to here is known to have ended */
    uint64_t waited[CUDA_STREAMS]; /* what it has waited for on the others */
    cudaEvent_t mark;              /* for the others to wait for */
    cudaEvent_t end;               /* for the host to wait for */
    uint64_t direct;               /* of the last copy that goes straight from or to the caller's
                                    * memory */
};

/* A piece of pinned memory that a copy uses. */
struct cuda_piece {
    uint64_t offset, size;
    cudaEvent_t event;
    void *target; /* a download's: where it goes once it is there; NULL: it is dropped */
};

#define CUDA_RING_PIECES 64u

/* Pinned memory, given out and taken back in one order. */
struct cuda_ring {
    unsigned char *memory;
    uint64_t size;
    uint64_t head; /* where the next piece begins */
    struct cuda_piece pieces[CUDA_RING_PIECES];
    uint32_t first, n;
    uint64_t pushed; /* pieces so far */
};

#define CUDA_MARKS 8u

/* A place on all streams. */
struct cuda_mark {
    cudaEvent_t events[CUDA_STREAMS];
    uint64_t tickets[CUDA_STREAMS];
    uint64_t uploads, downloads; /* pieces that were pushed before it */
    cudaEvent_t begin;           /* of the first that was computed since the mark before it */
    bool timed;                  /* there was something */
};

/* Marks before which something failed that was waited for with them, with what was downloaded: each
 * of them has to say so, whoever asks for it. */
struct cuda_dropped {
    uint64_t after, until;
    libsched_error why;
};

/* Memory of the host that was told of (pinned.c). */
struct cuda_range {
    struct cuda_range *next;
    unsigned char *memory;
    uint64_t size;
    bool read_only;
    bool refused;          /* no more of it is pinned */
    unsigned char *pinned; /* for each chunk of CUDA_PINNED_CHUNK, whether it is */
};

#define CUDA_PINNED_CHUNK (UINT64_C(16) << 20)

struct cuda_plan;

/* NVML's, of the thread that reads it (readings.c). */
struct cuda_instruments {
    struct nvml_device *handle; /* NULL: not found yet */
    struct nvml_events *events; /* NULL: Xids are not told */
    uint64_t xid_count;
    uint32_t last_xid;
};

struct cuda_device {
    libsched_device base;
    int ordinal;
    char pci[32], name[128];
    int capability;   /* 90: compute capability 9.0 */
    uint32_t threads; /* as asked for; nothing is computed on the host */
    int lost;         /* the CUDA error that ended it; 0: none */
    char lost_by[64]; /* the function that answered it */
    cudaMemPool_t pool;
    struct cuda_lane lanes[CUDA_STREAMS];
    struct cuda_ring uploads, downloads;
    struct cuda_range *ranges;
    uint64_t pinned_bytes, pinned_limit; /* of ranges, and the most that may be */
    bool said_limit, said_refused;
    void (*note)(void *context, const char *text); /* NULL: nobody listens */
    void *note_context;
    struct cuda_mark marks[CUDA_MARKS]; /* mark n is marks[n % CUDA_MARKS] */
    uint64_t last_mark, reached;        /* the last that was made, and that is known to be over */
    struct cuda_dropped dropped;
    struct cuda_times *times; /* NULL: nobody wants to know */
    bool begun;               /* `begin` of the next mark was recorded */

    cublasLtHandle_t blas;
    struct cuda_span workspace;
    struct cuda_plan **plans; /* a hash table of PLAN_BUCKETS chains */
    uint32_t n_plans;
    bool measures; /* which algorithm of a product is the fastest */

    struct cuda_instruments instruments;

    /* The communicator whose operations may be under way on the compute stream; NULL: none. */
    libsched_device_communicator *collective;
    /* Of a collective that failed while something else waited: told by the next synchronize(). */
    libsched_error failure;

    bool records;                /* sections */
    uint32_t recording_failures; /* so far */
    libsched_device_section
        *recording; /* what the compute stream does not do, but records; or NULL */
};

/* Of sequences. */
struct cuda_counts {
    uint32_t n, tokens, n_blocks;
};

struct libsched_device_buffer {
    uint32_t datatype;
    uint64_t rows, columns; /* as asked for; there is room for cuda_rung(rows) */
    struct cuda_span span;
};

struct libsched_device_weight {
    uint32_t kind, datatype;
    uint64_t rows, columns;
    struct cuda_span span;
    uint64_t bf16_offset; /* VECTOR: of its copy in BF16 */
};

struct libsched_device_sequences {
    uint32_t max_sequences, n;
    uint64_t max_tokens;
    uint32_t tokens, longest, n_blocks;
    /* With empty sequences, tokens of no sequence and empty blocks at their ends: as a recording
     * has them. All 0 where there are too many for one. */
    struct cuda_counts padded;
    uint64_t ids_offset, positions_offset, blocks_offset; /* in the span; starts are at 0 */
    struct cuda_span span;
    unsigned char *staged; /* on the host, as it is uploaded */
};

/* No dimension above it is taken: products of two, times an element, stay within 64 bits. */
#define CUDA_MAX_DIMENSION ((uint64_t)1 << 30)

static inline struct cuda_device *cuda_device_of(libsched_device *device)
{
    return (struct cuda_device *)device;
}

/* What operations are given as const, but for who touched it last. */
static inline struct cuda_span *cuda_span_of_buffer(const libsched_device_buffer *buffer)
{
    return (struct cuda_span *)(uintptr_t)&buffer->span;
}

static inline struct cuda_span *cuda_span_of_weight(const libsched_device_weight *weight)
{
    return (struct cuda_span *)(uintptr_t)&weight->span;
}

static inline struct cuda_span *cuda_span_of_sequences(const libsched_device_sequences *sequences)
{
    return (struct cuda_span *)(uintptr_t)&sequences->span;
}

/* ------------------------------------------------------------------------------------- error.c */

/* LIBSCHED_OK, or what a CUDA error means, with a message; `what` is what was tried. */
int cuda_check(struct cuda_device *device, cudaError_t code, const char *what, libsched_error *err);
int cuda_check_blas(struct cuda_device *device, cublasStatus_t code, const char *what,
                    libsched_error *err);
/* At the beginning of each call: whether the device can be used still; makes it the thread's. */
int cuda_enter(struct cuda_device *device, libsched_error *err);
/* The same for an operation, which may be recorded: all others end a recording. */
int cuda_enter_operation(struct cuda_device *device, libsched_error *err);
/* The device can't be used any more, for a reason that is no CUDA error. */
int cuda_give_up(struct cuda_device *device, const char *why, libsched_error *err);
/* Whether the process has to end after this error. */
bool cuda_is_sticky(int code);

/* Tells people. */
void cuda_note(const struct cuda_device *device, const char *format, ...) LIBSCHED_PRINTF(2, 3);
/* Whether a variable of the environment is 1, and not 0. Otherwise it is `unless`, and where the
 * variable has something else people are told that, and what comes of it. */
bool cuda_switch(const struct cuda_device *device, const char *variable, bool unless,
                 const char *then);

/* ------------------------------------------------------------------------------------- order.c */

#define CUDA_WORK_SPANS 8u

/* Something that is about to be given to a stream, and the memory it touches. */
struct cuda_work {
    struct cuda_device *device;
    enum cuda_stream stream;
    struct cuda_span *spans[CUDA_WORK_SPANS];
    uint32_t n;
};

/* Lets a stream wait for what others do with this memory; and after it was given something that
 * touches it. */
int cuda_spans_wait(struct cuda_device *device, enum cuda_stream stream,
                    struct cuda_span *const *spans, uint32_t n, libsched_error *err);
void cuda_spans_touched(struct cuda_device *device, enum cuda_stream stream,
                        struct cuda_span *const *spans, uint32_t n);
/* A NULL span is none. */
void cuda_work_add(struct cuda_work *work, struct cuda_span *span);
/* Lets the stream wait for what others do with the same memory. While a section is recorded that is
 * remembered for the time when it is given. */
int cuda_work_begin(struct cuda_work *work, libsched_error *err);
/* After it was given to the stream. */
void cuda_work_end(struct cuda_work *work);
static inline cudaStream_t cuda_stream(const struct cuda_device *device, enum cuda_stream which)
{
    return device->lanes[which].stream;
}

/* ------------------------------------------------------------------------------------ memory.c */

int cuda_pool_open(struct cuda_device *device, libsched_error *err);
/* Gives the driver back what the pool keeps: as pieces of other sizes than are wanted now, or for
 * others than the pool. */
int cuda_trim(struct cuda_device *device, libsched_error *err);
/* Device memory, in the order of the compute stream. `what` it is for is part of the message. */
int cuda_allocate(struct cuda_device *device, struct cuda_span *out, uint64_t size,
                  const char *what, libsched_error *err);
void cuda_release(struct cuda_device *device, struct cuda_span *span);
/* Bytes in all, and those that are free or kept by the pool for reuse. */
int cuda_memory(struct cuda_device *device, uint64_t *total, uint64_t *free, libsched_error *err);

/* ------------------------------------------------------------------------------------ buffer.c */

int cuda_buffer_create(libsched_device *device, libsched_device_buffer **out, uint32_t datatype,
                       uint64_t rows, uint64_t columns, libsched_error *err);
void cuda_buffer_destroy(libsched_device *device, libsched_device_buffer *buffer);
int cuda_upload(libsched_device *device, libsched_device_buffer *buffer, uint64_t first_row,
                uint64_t rows, const void *source, libsched_error *err);
int cuda_download(libsched_device *device, const libsched_device_buffer *buffer, uint64_t first_row,
                  uint64_t rows, void *target, libsched_error *err);
int cuda_buffer_check(const libsched_device_buffer *buffer, const char *name, uint32_t datatype,
                      uint64_t rows, uint64_t columns, libsched_error *err);
/* Products are computed for this many rows, so that there are few shapes. Not less than `rows`, and
 * no less for more rows. */
uint64_t cuda_rung(uint64_t rows);

/* ----------------------------------------------------------------------------------- staging.c */

int cuda_ring_open(struct cuda_device *device, struct cuda_ring *ring, uint64_t size,
                   libsched_error *err);
void cuda_ring_close(struct cuda_device *device, struct cuda_ring *ring);
/* Writes `size` bytes, from `offset` of what is copied, to pinned memory. */
typedef void (*cuda_fill)(void *to, uint64_t offset, uint64_t size, const void *context);
/* Copies `size` bytes to span + offset: `fill` is called for one piece after the other before it
 * returns. Pieces are of a multiple of 4 KiB, but for the last. */
int cuda_stage_upload(struct cuda_device *device, struct cuda_span *span, uint64_t offset,
                      uint64_t size, cuda_fill fill, const void *context, libsched_error *err);
/* A fill: context is the memory it is copied from. */
void cuda_fill_copy(void *to, uint64_t offset, uint64_t size, const void *context);
int cuda_stage_download(struct cuda_device *device, struct cuda_span *span, uint64_t offset,
                        uint64_t size, void *target, libsched_error *err);
/* The copies that were pushed up to here have ended. */
void cuda_stage_finish_until(struct cuda_device *device, uint64_t uploads, uint64_t downloads,
                             bool drop);
/* All copies have ended: delivers what was downloaded, or with `drop` forgets it. */
void cuda_stage_finish(struct cuda_device *device, bool drop);

/* ------------------------------------------------------------------------------------ pinned.c */

void cuda_pinned_open(struct cuda_device *device);
void cuda_pinned_close(struct cuda_device *device);
int cuda_host_register(libsched_device *device, const libsched_device_host_args *args,
                       libsched_error *err);
void cuda_host_unregister(libsched_device *device, const void *memory);
/* Copies from and to memory of the caller's: straight, as far as it is pinned, else through the
 * rings. */
int cuda_copy_in(struct cuda_device *device, struct cuda_span *span, uint64_t offset, uint64_t size,
                 const void *source, libsched_error *err);
int cuda_copy_out(struct cuda_device *device, struct cuda_span *span, uint64_t offset,
                  uint64_t size, void *target, libsched_error *err);

/* -------------------------------------------------------------------------------------- wait.c */

/* Waits on the host for an event, of whose stream this is. */
int cuda_wait(struct cuda_device *device, cudaEvent_t event, libsched_error *err);
int cuda_synchronize(libsched_device *device, libsched_error *err);
/* After a failure to wait: what goes straight to the caller's memory is over when it returns, or
 * the device is lost. */
int cuda_settle(struct cuda_device *device, libsched_error *err);
uint64_t cuda_now(void);

/* -------------------------------------------------------------------------------------- mark.c */

int cuda_marks_open(struct cuda_device *device, libsched_error *err);
void cuda_marks_close(struct cuda_device *device);
/* What was downloaded before the marks up to this one was dropped. */
void cuda_marks_drop(struct cuda_device *device, uint64_t until, const libsched_error *why);
int cuda_mark(libsched_device *device, uint64_t *out, libsched_error *err);
int cuda_reached(libsched_device *device, uint64_t mark, bool wait, libsched_error *err);

/* ------------------------------------------------------------------------------------- times.c */

int cuda_times_open(struct cuda_device *device, libsched_error *err);
void cuda_times_close(struct cuda_device *device);
/* The compute stream is about to be given something. */
int cuda_times_begin(struct cuda_device *device, libsched_error *err);
/* This mark is behind it. */
void cuda_times_end(struct cuda_device *device, struct cuda_mark *mark);
/* All up to this mark is done. */
void cuda_times_reached(struct cuda_device *device, uint64_t until);

/* ------------------------------------------------------------------------ weight.c, convert.c */

int cuda_weight_create(libsched_device *device, libsched_device_weight **out,
                       const libsched_device_weight_args *args, libsched_error *err);
int cuda_weight_share(libsched_device *device, libsched_device_communicator *communicator,
                      uint32_t root, libsched_device_weight **out,
                      const libsched_device_weight_args *args, libsched_error *err);
void cuda_weight_destroy(libsched_device *device, libsched_device_weight *weight);
int cuda_weight_check(const libsched_device_weight *weight, const char *name, uint32_t kind,
                      uint64_t rows, uint64_t columns, libsched_error *err);
/* n elements at any alignment, between FP32, FP16 (as a source) and BF16. */
void cuda_convert(const void *source, uint32_t source_datatype, uint64_t n, void *target,
                  uint32_t datatype);

/* --------------------------------------------------------------------------------- sequences.c */

int cuda_sequences_create(libsched_device *device, libsched_device_sequences **out,
                          uint32_t max_sequences, uint64_t max_tokens, libsched_error *err);
void cuda_sequences_destroy(libsched_device *device, libsched_device_sequences *sequences);
int cuda_sequences_set(libsched_device *device, libsched_device_sequences *sequences, uint32_t n,
                       const uint32_t *starts, const int32_t *ids, libsched_error *err);
/* As kernels take it: padded, where they are recorded. */
struct kernel_sequences cuda_sequences_view(struct cuda_device *device,
                                            const libsched_device_sequences *sequences);

/* ----------------------------------------------------------------------------------- section.c */

/* The most tokens of a batch that is recorded: what takes longer to compute than to be given gains
 * nothing. */
#define CUDA_RECORDED_TOKENS 4096u

void cuda_sections_open(struct cuda_device *device);
int cuda_section_create(libsched_device *device, libsched_device_section **out,
                        const libsched_device_sequences *sequences, uint64_t *bytes,
                        libsched_error *err);
void cuda_section_destroy(libsched_device *device, libsched_device_section *section);
int cuda_section_begin(libsched_device *device, libsched_device_section *section, uint32_t variant,
                       bool *given, libsched_error *err);
int cuda_section_end(libsched_device *device, libsched_device_section *section, int status,
                     bool *again, libsched_error *err);
/* Ends the recording under way, of which nothing comes. */
void cuda_recording_drop(struct cuda_device *device);
/* Nothing comes of it, once it has ended. */
void cuda_recording_spoil(struct cuda_device *device);
/* Adds what it touches. */
void cuda_recording_touches(struct cuda_device *device, struct cuda_span *const *spans, uint32_t n);
/* Its sequences may be no longer. */
void cuda_recording_positions(struct cuda_device *device, uint64_t n);
/* The sequences of the recording under way; NULL: there is none. */
const libsched_device_sequences *cuda_recorded_sequences(const struct cuda_device *device);
/* How many rows an operation on `rows` of them computes: as many as the padded sequences have
 * tokens, where it is recorded. */
uint64_t cuda_rows(struct cuda_device *device, uint64_t rows);

/* ------------------------------------------------------- linear.c, products.c, fastest.c, rows.c,
 * attention.c
 */

int cuda_linear(libsched_device *device, const libsched_device_linear_args *args,
                libsched_error *err);
int cuda_embed(libsched_device *device, const libsched_device_embed_args *args,
               libsched_error *err);
int cuda_norm(libsched_device *device, const libsched_device_norm_args *args, libsched_error *err);
int cuda_pool(libsched_device *device, const libsched_device_pool_args *args, libsched_error *err);
int cuda_attention(libsched_device *device, const libsched_device_attention_args *args,
                   libsched_error *err);

/* What cuBLASLt does behind the sums of a product. */
enum cuda_epilogue { CUDA_EPILOGUE_NONE, CUDA_EPILOGUE_RELU, CUDA_EPILOGUE_GELU_TANH };

struct cuda_product {
    uint64_t rows, inputs, outputs;
    uint32_t datatype, output_datatype;
    uint32_t epilogue; /* cuda_epilogue */
    uint32_t bias, accumulate;
    uint32_t unused; /* no padding: it is compared as bytes */
};

/* Gives the compute stream one of several ways to do the same; false: that one can't be done. */
typedef bool cuda_way(void *context, int way);

void cuda_fastest_open(struct cuda_device *device);
/* The fastest of n ways; *best stays where none can be done. */
int cuda_fastest(struct cuda_device *device, int n, cuda_way *go, void *context, int *best,
                 libsched_error *err);

int cuda_products_open(struct cuda_device *device, libsched_error *err);
void cuda_products_close(struct cuda_device *device);
/* output = epilogue(input weightᵀ + bias), or added to it, on the compute stream. *done is false
 * where cuBLASLt has no algorithm for it: nothing was computed then. The bias is of the output's
 * datatype. */
int cuda_product_run(struct cuda_device *device, const struct cuda_product *product,
                     const void *input, const void *weight, const void *bias, void *output,
                     bool *done, libsched_error *err);

/* ------------------------------------------------------------- communicator.c, collectives.c */

int cuda_communicator_id(libsched_device *device, unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE],
                         libsched_error *err);
int cuda_communicator_create(libsched_device *device, libsched_device_communicator **out,
                             const libsched_device_communicator_args *args, libsched_error *err);
void cuda_communicator_destroy(libsched_device *device, libsched_device_communicator *communicator);
void cuda_communicator_abort(libsched_device_communicator *communicator);
uint64_t cuda_communicator_calls(const libsched_device_communicator *communicator);
/* While something waits for the compute stream: whether all is well with the collectives on it,
 * after having waited for `waited_ns`. Where not, the communicator has been aborted, so that the
 * stream ends. */
int cuda_communicator_look(struct cuda_device *device, uint64_t waited_ns, libsched_error *err);

int cuda_all_reduce(libsched_device *device, libsched_device_communicator *communicator,
                    const libsched_device_collective_args *args, libsched_error *err);
int cuda_broadcast(libsched_device *device, libsched_device_communicator *communicator,
                   const libsched_device_collective_args *args, libsched_error *err);
int cuda_all_gather(libsched_device *device, libsched_device_communicator *communicator,
                    const libsched_device_collective_args *args, libsched_error *err);
int cuda_reduce_scatter(libsched_device *device, libsched_device_communicator *communicator,
                        const libsched_device_collective_args *args, libsched_error *err);
int cuda_barrier(libsched_device *device, libsched_device_communicator *communicator,
                 libsched_error *err);

#endif
