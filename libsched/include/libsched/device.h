/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device is: coarse operations on packed sequences, which an engine composes without
 * knowing what computes them.
 *
 * A device driver is one exported function, libsched_device_entry(), that returns a const table.
 * It is opened inside a device worker, and used by one thread at a time.
 *
 * Order: operations and copies take effect in the order they were called, as if each had ended
 * before the next began. They may be carried out later: a call that returns LIBSCHED_OK has only
 * been accepted, and what goes wrong afterwards is answered by synchronize(). So
 *   - host memory given to upload() and sequences_set() is copied before the call returns, unless
 * it is memory that host_register() told of;
 *   - host memory given to download() is filled when synchronize() has returned;
 *   - device objects may be destroyed at any time: a driver keeps what its queue still needs.
 *
 * Packed sequences: a batch of n sequences of lengths l0, l1, … is one matrix of l0 + l1 + … rows,
 * one a token, without padding. Sequence i is rows starts[i] to starts[i + 1] - 1.
 *
 * Numbers: activations and weights are FP32 or BF16, sums are always carried in FP32. The residual
 * stream and the inside of layer_norm, of softmax and of pool are FP32.
 */
#ifndef LIBSCHED_DEVICE_H
#define LIBSCHED_DEVICE_H

#include <libsched/readings.h>
#include <libsched/status.h>
#include <libsched/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a change breaks drivers or engines that were built before it. What is added goes to
 * the end of a struct, and struct_size says whether it is there: collectives came so. */
#define LIBSCHED_DEVICE_ABI 2

struct libsched_device_driver;

/* A device that is open. The driver's own struct begins with it. */
typedef struct libsched_device {
    const struct libsched_device_driver *driver;
} libsched_device;

/* A matrix of activations in device memory, row-major and dense; a driver may allocate more rows
 * than were asked for and use them as it likes. */
typedef struct libsched_device_buffer libsched_device_buffer;
/* A weight, in whatever form the driver computes best with. Never changes. */
typedef struct libsched_device_weight libsched_device_weight;
/* A batch of packed token sequences. */
typedef struct libsched_device_sequences libsched_device_sequences;
/* Operations that are given again and again. */
typedef struct libsched_device_section libsched_device_section;

typedef struct libsched_device_open_args {
    uint32_t struct_size;
    uint32_t ordinal; /* the driver's own number for the device */
    uint32_t threads; /* host threads it may compute with; at least 1 */
    /* Where it is in the machine ("0000:3b:00.0"), which goes before the ordinal: a driver's
     * numbers need not be in the order of the bus. NULL: not known. Came later. */
    const char *pci_bus_id;
    /* Called with what people should know and nobody has to do anything about: that a faster way
     * can't be gone. Each thing is said once, from within any call, by its thread. NULL: nobody
     * listens. Came later. */
    void (*note)(void *context, const char *text);
    void *note_context;
} libsched_device_open_args;

enum libsched_device_flags {
    LIBSCHED_DEVICE_BF16 = 1u << 0,   /* BF16 weights and activations are computed natively */
    LIBSCHED_DEVICE_UNIFIED = 1u << 1 /* its memory is the host's */
};

/* Filled by info(), as far as struct_size, the caller's, says that it has room. */
typedef struct libsched_device_properties {
    uint32_t struct_size;
    uint32_t flags;
    uint32_t threads;                 /* host threads it computes with */
    uint64_t memory_total;            /* bytes; 0 where it is not known */
    uint64_t memory_free;             /* bytes; 0 where it is not known */
    char text[LIBSCHED_MESSAGE_SIZE]; /* one line for people: "oneDNN 2.6.3, AVX-512, 2 threads" */
} libsched_device_properties;

enum libsched_device_host_flags {
    LIBSCHED_HOST_READ_ONLY = 1u << 0 /* it is mapped so that it can't be written to */
};

/* Memory of the host, at a page's begin. Nobody can make it shorter while it is mapped. */
typedef struct libsched_device_host_args {
    uint32_t struct_size;
    uint32_t flags; /* libsched_device_host_flags */
    void *memory;
    uint64_t size;
} libsched_device_host_args;

typedef enum libsched_device_weight_kind {
    LIBSCHED_WEIGHT_LINEAR = 1, /* [outputs, inputs], as PyTorch keeps a Linear's: of linear() */
    LIBSCHED_WEIGHT_TABLE,      /* [entries, columns]: of embed() */
    LIBSCHED_WEIGHT_VECTOR,     /* [n]: a bias, or a norm's gain or shift; kept in FP32 */
} libsched_device_weight_kind;

typedef struct libsched_device_weight_args {
    uint32_t struct_size;
    uint32_t kind;            /* libsched_device_weight_kind */
    uint32_t datatype;        /* to compute with: LIBSCHED_FP32 or LIBSCHED_BF16 (not a VECTOR's) */
    uint32_t source_datatype; /* of data: LIBSCHED_FP32, LIBSCHED_FP16 or LIBSCHED_BF16 */
    uint64_t rows, columns;   /* a VECTOR has one row */
    const void *data;         /* rows * columns elements, row-major, at any alignment */
} libsched_device_weight_args;

typedef enum libsched_device_activation {
    LIBSCHED_ACTIVATION_NONE = 0,
    LIBSCHED_ACTIVATION_GELU,      /* x Φ(x), by erf */
    LIBSCHED_ACTIVATION_GELU_TANH, /* its approximation by tanh */
    LIBSCHED_ACTIVATION_RELU,
} libsched_device_activation;

typedef enum libsched_device_pooling {
    LIBSCHED_POOLING_MEAN = 1, /* of all tokens of a sequence */
    LIBSCHED_POOLING_CLS,      /* its first token */
    LIBSCHED_POOLING_MAX,      /* the largest of each column */
} libsched_device_pooling;

/*
 * output[t] = layer_norm(words[id[t]] + positions[position[t]] + types[0]) for each token t, whose
 * position counts from 0 in its sequence. Ids are within the tables: the caller has checked them.
 */
typedef struct libsched_device_embed_args {
    uint32_t struct_size;
    const libsched_device_sequences *sequences;
    const libsched_device_weight *words, *positions;
    const libsched_device_weight *types; /* NULL: none is added */
    const libsched_device_weight *gain, *shift;
    float epsilon;
    libsched_device_buffer *output;      /* FP32 */
    libsched_device_buffer *output_bf16; /* the same in BF16; NULL: not wanted */
} libsched_device_embed_args;

/* output = activation(input weightᵀ + bias), or output += input weightᵀ + bias. */
typedef struct libsched_device_linear_args {
    uint32_t struct_size;
    uint64_t rows;
    const libsched_device_buffer *input;  /* of the weight's datatype */
    const libsched_device_weight *weight; /* LINEAR */
    const libsched_device_weight *bias;   /* VECTOR, or NULL */
    uint32_t activation;                  /* libsched_device_activation; NONE with accumulate */
    bool accumulate;                      /* add to what output holds: a residual; FP32 only */
    libsched_device_buffer *output;       /* FP32 or BF16; not the input */
} libsched_device_linear_args;

/* output = layer_norm(input + residual) over each row, times gain, plus shift. */
typedef struct libsched_device_norm_args {
    uint32_t struct_size;
    uint64_t rows;
    const libsched_device_buffer *input;    /* FP32; may be the output */
    const libsched_device_buffer *residual; /* FP32, or NULL */
    const libsched_device_weight *gain, *shift;
    float epsilon;
    libsched_device_buffer *output;      /* FP32 */
    libsched_device_buffer *output_bf16; /* the same in BF16; NULL: not wanted */
} libsched_device_norm_args;

/*
 * Scaled dot-product attention of each sequence with itself, every token with every token:
 * output = softmax(scale · Q Kᵀ) V, head by head. A row of qkv is the queries of all heads, then
 * their keys, then their values: 3 · heads · head_size columns; a row of the output is
 * heads · head_size.
 */
typedef struct libsched_device_attention_args {
    uint32_t struct_size;
    const libsched_device_sequences *sequences;
    const libsched_device_buffer *qkv; /* FP32 or BF16 */
    uint32_t heads, head_size;
    float scale;
    libsched_device_buffer *output; /* of the datatype of qkv */
} libsched_device_attention_args;

/* One row for each sequence from its rows in input; with normalize, divided by its Euclidean
 * length (or 1e-12, where that is larger). */
typedef struct libsched_device_pool_args {
    uint32_t struct_size;
    const libsched_device_sequences *sequences;
    const libsched_device_buffer *input; /* FP32 */
    uint32_t pooling;                    /* libsched_device_pooling */
    bool normalize;
    libsched_device_buffer *output; /* FP32, a row for each sequence */
} libsched_device_pool_args;

/*
 * A communicator: the ranks of a job, each on a device of its own, in a process of its own. Its
 * operations are collective: every rank calls the same ones in the same order. They are part of
 * the device's order, like any other operation; a rank that is missing, or that died, lets them
 * fail on every other rank: with LIBSCHED_ECANCELED by communicator_abort() of any rank, or with
 * LIBSCHED_EDEADLINE when `timeout_ns` has passed. LIBSCHED_EINVAL where the ranks do not call the
 * same operation. After a failure a communicator can only be destroyed.
 */
typedef struct libsched_device_communicator libsched_device_communicator;

#define LIBSCHED_COMMUNICATOR_ID_SIZE 128

typedef struct libsched_device_communicator_args {
    uint32_t struct_size;
    uint32_t rank, n_ranks;
    uint64_t timeout_ns; /* that any one operation may wait for others; 0: for ever */
    /* Memory that all ranks of this host have mapped, zeroed when the job began; at least
     * LIBSCHED_COMMUNICATOR_SHARED_SIZE(n_ranks), aligned to a page. It stays mapped until the
     * communicator is destroyed. */
    void *shared;
    uint64_t shared_size;
    /* What communicator_id() of rank 0 answered; NULL for a driver that has none. */
    const unsigned char *id; /* LIBSCHED_COMMUNICATOR_ID_SIZE */
    /* While communicator_create() waits there is nothing yet that communicator_abort() could be
     * called with: it looks at this flag (NULL: there is none), atomically and every few
     * milliseconds, and gives up when another thread has set it. */
    const bool *cancelled;
} libsched_device_communicator_args;

#define LIBSCHED_COMMUNICATOR_SHARED_SIZE(n_ranks) ((1 + (uint64_t)(n_ranks)) * (UINT64_C(4) << 20))

typedef enum libsched_device_reduction {
    LIBSCHED_REDUCE_SUM = 1,
    LIBSCHED_REDUCE_MAX,
} libsched_device_reduction;

/* `count` elements of FP32 or BF16 (sums are carried in FP32), row by row from row 0 of the
 * buffers, whose columns are all used. The same buffer may be input and output, but for all_gather
 * and reduce_scatter.
 *   all_reduce:      output = the reduction over all ranks of input; count elements each
 *   broadcast:       output = root's input; elsewhere input may be NULL
 *   all_gather:      output = the inputs of all ranks, in their order; count each
 *   reduce_scatter:  output = the rank's share of the reduction; input n_ranks * count elements
 * A sum is added up in one order, so that every rank has the same one to the bit: on CPU devices in
 * that of the ranks, on GPUs in one that NCCL chooses. */
typedef struct libsched_device_collective_args {
    uint32_t struct_size;
    uint32_t reduction; /* libsched_device_reduction */
    uint32_t root;      /* of broadcast */
    uint64_t count;
    const libsched_device_buffer *input;
    libsched_device_buffer *output;
} libsched_device_collective_args;

/*
 * Functions answer LIBSCHED_OK or a status, with a message in `err`: LIBSCHED_EINVAL for arguments
 * that do not fit together, LIBSCHED_ENOTSUP for what this device cannot do, LIBSCHED_ENODEVMEM
 * where there is no room, LIBSCHED_EDEVICELOST once it can't be used any more.
 *
 * A destroy function takes NULL.
 */
typedef struct libsched_device_driver {
    uint32_t abi_version; /* LIBSCHED_DEVICE_ABI */
    uint32_t struct_size; /* sizeof(libsched_device_driver) as the driver was built */
    const char *name;     /* "cpu", "cuda" */

    int (*open)(libsched_device **out, const libsched_device_open_args *args, libsched_error *err);
    /* Everything made on it has been destroyed. */
    void (*close)(libsched_device *device);
    int (*info)(libsched_device *device, libsched_device_properties *out, libsched_error *err);

    /* ------------------------------------------------------------------------------- memory */

    /* A matrix of up to `rows` rows. datatype: LIBSCHED_FP32 or LIBSCHED_BF16. */
    int (*buffer_create)(libsched_device *device, libsched_device_buffer **out, uint32_t datatype,
                         uint64_t rows, uint64_t columns, libsched_error *err);
    void (*buffer_destroy)(libsched_device *device, libsched_device_buffer *buffer);
    /* Whole rows from and to host memory, in the buffer's datatype. */
    int (*upload)(libsched_device *device, libsched_device_buffer *buffer, uint64_t first_row,
                  uint64_t rows, const void *source, libsched_error *err);
    int (*download)(libsched_device *device, const libsched_device_buffer *buffer,
                    uint64_t first_row, uint64_t rows, void *target, libsched_error *err);

    /* Brings a weight into the device's own form. `data` is no longer needed afterwards. */
    int (*weight_create)(libsched_device *device, libsched_device_weight **out,
                         const libsched_device_weight_args *args, libsched_error *err);
    void (*weight_destroy)(libsched_device *device, libsched_device_weight *weight);

    /* Room for a batch of sequences, which sequences_set() fills as often as one likes: starts has
     * n + 1 entries, starts[0] = 0, none below the one before; ids has starts[n]. */
    int (*sequences_create)(libsched_device *device, libsched_device_sequences **out,
                            uint32_t max_sequences, uint64_t max_tokens, libsched_error *err);
    void (*sequences_destroy)(libsched_device *device, libsched_device_sequences *sequences);
    int (*sequences_set)(libsched_device *device, libsched_device_sequences *sequences, uint32_t n,
                         const uint32_t *starts, const int32_t *ids, libsched_error *err);

    /* --------------------------------------------------------------------------- operations */

    int (*embed)(libsched_device *device, const libsched_device_embed_args *args,
                 libsched_error *err);
    int (*linear)(libsched_device *device, const libsched_device_linear_args *args,
                  libsched_error *err);
    int (*norm)(libsched_device *device, const libsched_device_norm_args *args,
                libsched_error *err);
    int (*attention)(libsched_device *device, const libsched_device_attention_args *args,
                     libsched_error *err);
    int (*pool)(libsched_device *device, const libsched_device_pool_args *args,
                libsched_error *err);

    /* Waits until everything before it is done, and answers how that ended. */
    int (*synchronize)(libsched_device *device, libsched_error *err);

    /* --------------------------------------------------------------------------- collectives */
    /* Since these came later, a driver may lack them: struct_size says so, or they are NULL. */

    /* What the ranks find each other by, made by rank 0 and passed to the others. NULL: not
     * needed. */
    int (*communicator_id)(libsched_device *device, unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE],
                           libsched_error *err);
    /* Returns when all ranks have called it. */
    int (*communicator_create)(libsched_device *device, libsched_device_communicator **out,
                               const libsched_device_communicator_args *args, libsched_error *err);
    void (*communicator_destroy)(libsched_device *device,
                                 libsched_device_communicator *communicator);
    /* Lets what is under way, and what comes, fail on every rank. May be called from another
     * thread, but not beside communicator_destroy(). */
    void (*communicator_abort)(libsched_device_communicator *communicator);

    int (*all_reduce)(libsched_device *device, libsched_device_communicator *communicator,
                      const libsched_device_collective_args *args, libsched_error *err);
    int (*broadcast)(libsched_device *device, libsched_device_communicator *communicator,
                     const libsched_device_collective_args *args, libsched_error *err);
    int (*all_gather)(libsched_device *device, libsched_device_communicator *communicator,
                      const libsched_device_collective_args *args, libsched_error *err);
    int (*reduce_scatter)(libsched_device *device, libsched_device_communicator *communicator,
                          const libsched_device_collective_args *args, libsched_error *err);
    /* Waits, also on the host, until every rank has come here. */
    int (*barrier)(libsched_device *device, libsched_device_communicator *communicator,
                   libsched_error *err);

    /* -------------------------------------------------------------------------- instruments */
    /* Came later too. NULL: it has none. */

    /* What its instruments show now; `out` begins with its size. Called about once a second by a
     * thread of its own, beside all other calls but close(), and also after the device was lost;
     * it may take its time. LIBSCHED_ENOTSUP: there will never be any, for the reason in `err`. */
    int (*readings)(libsched_device *device, libsched_device_readings *out, libsched_error *err);

    /* -------------------------------------------------------------------------------- marks */
    /* Came later too; both, or NULL: its operations are done when they return, or can only be
     * waited for all together. */

    /* A place in the order: behind everything that was called so far. It is larger than those
     * before. */
    int (*mark)(libsched_device *device, uint64_t *out, libsched_error *err);
    /* Whether everything before a mark is done, and how that ended: what was downloaded before it
     * is there then. What is behind it goes on. LIBSCHED_EBUSY: not yet; with `wait`, it waits
     * until it is. After a failure nothing that was downloaded before the mark will be written any
     * more, and the marks before it that nobody has asked for have failed as well; so have all of
     * them where synchronize() has. */
    int (*reached)(libsched_device *device, uint64_t mark, bool wait, libsched_error *err);

    /* Came later too. How many collective operations this rank has called: the same on all ranks of
     * a communicator, unless one has called what the others have not. NULL: it is not counted. */
    uint64_t (*communicator_calls)(const libsched_device_communicator *communicator);

    /* Came later too. A collective weight_create(): all ranks give the same arguments but for
     * `data`, which only `root` has to have: the others get from it what its device made of it.
     * NULL: each rank has to bring the data. */
    int (*weight_share)(libsched_device *device, libsched_device_communicator *communicator,
                        uint32_t root, libsched_device_weight **out,
                        const libsched_device_weight_args *args, libsched_error *err);

    /* -------------------------------------------------------------------------- host memory */
    /* Came later too; both, or NULL: a copy is the same whatever it is from and to. */

    /* Tells of memory that will be copied from and to for a long time, so that the device can reach
     * it itself. A hint, and LIBSCHED_OK also where nothing comes of it (note() says so). From then
     * on what upload() is given of it has to stay as it is until synchronize() has returned or a
     * mark behind it is reached, and download() may write to what it is given at any time until
     * then. It has to stay mapped until host_unregister() or close(). */
    int (*host_register)(libsched_device *device, const libsched_device_host_args *args,
                         libsched_error *err);
    /* Waits for what is copied from and to it. What was never told of is ignored. */
    void (*host_unregister)(libsched_device *device, const void *memory);

    /* ----------------------------------------------------------------------------- sections */
    /* Came later too; all four, or NULL: nothing would be gained. */

    /* A section is a row of embed, linear, norm, attention and pool, on certain sequences, that is
     * called again and again: always the same operations on the same objects, with as many rows as
     * the sequences have tokens, and what it computes from it computes itself or gets by
     * sequences_set(). So a device can record it, and give it to itself at once the next time,
     * which takes less time than to be called for each where batches are small. It computes the
     * same.
     *
     * `bytes`: of device memory that its recordings may come to take, about. It has to be destroyed
     * before the objects that its operations use. */
    int (*section_create)(libsched_device *device, libsched_device_section **out,
                          const libsched_device_sequences *sequences, uint64_t *bytes,
                          libsched_error *err);
    void (*section_destroy)(libsched_device *device, libsched_device_section *section);
    /* Begins it, for what the sequences hold now. `variant` tells rows of operations apart that
     * differ otherwise. With *given, all of it has been given, and nothing is to be called. Else
     * its operations are to be called now, nothing else meanwhile, and then section_end(). */
    int (*section_begin)(libsched_device *device, libsched_device_section *section,
                         uint32_t variant, bool *given, libsched_error *err);
    /* `status`: LIBSCHED_OK, or what the first of them that failed has answered. With *again
     * nothing of it has happened, nor has that failure: it has to be called once more from
     * section_begin() on. */
    int (*section_end)(libsched_device *device, libsched_device_section *section, int status,
                       bool *again, libsched_error *err);
} libsched_device_driver;

/*
 * The symbol a plugin exports. `abi` is the caller's LIBSCHED_DEVICE_ABI; NULL says that the plugin
 * cannot serve it. The table lives as long as the process.
 */
typedef const libsched_device_driver *(*libsched_device_entry_fn)(uint32_t abi);
#define LIBSCHED_DEVICE_ENTRY "libsched_device_entry"
LIBSCHED_API const libsched_device_driver *libsched_device_entry(uint32_t abi);

#ifdef __cplusplus
}
#endif

#endif
