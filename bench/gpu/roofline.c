/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bounds the encoder: of each operation the floating-point operations and the bytes that it
 * cannot do without, the time it takes when it is given again and again, and what share that is of
 * the peak that was measured here, whichever of the two would take longer.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

/* The sum of many operations is of these. */
#define MIN_SECONDS 0.05

enum { EMBED, QKV, ATTENTION, OUT, NORM, UP, DOWN, POOL, OPERATIONS };

static const char *const names[OPERATIONS] = {"embed", "qkv", "attention", "out",
                                              "norm",  "up",  "down",      "pool"};

struct peaks {
    double flops, bytes; /* a second; 0: not known */
};

struct work {
    double flops, bytes;
};

/* All that operations need, of a batch of sequences of one length. */
struct bench {
    struct gpu_bench *b;
    uint64_t tokens;
    uint32_t n, length;
    int operation; /* that is measured */
    libsched_device_weight *words, *positions, *gain, *shift;
    libsched_device_weight *products[GPU_PRODUCTS], *biases[GPU_PRODUCTS];
    libsched_device_buffer *states, *half, *qkv, *context, *middle, *pooled;
    libsched_device_sequences *sequences;
};

static void make_sequences(struct bench *x)
{
    uint32_t *starts = gpu_allocate(x->n + 1u, sizeof(*starts));
    int32_t *ids = gpu_allocate(x->tokens, sizeof(*ids));
    libsched_error err;

    for (uint32_t i = 0; i < x->n; i++)
        starts[i + 1] = starts[i] + x->length;
    for (uint64_t t = 0; t < x->tokens; t++)
        ids[t] = (int32_t)(t * 7919u % x->b->config.vocabulary);
    gpu_check(x->b->driver->sequences_create(x->b->device, &x->sequences, x->n, x->tokens, &err),
              &err, "a batch");
    gpu_check(x->b->driver->sequences_set(x->b->device, x->sequences, x->n, starts, ids, &err),
              &err, "a batch");
    free(starts);
    free(ids);
}

static void make(struct bench *x)
{
    const struct encoder_config *c = &x->b->config;
    const uint32_t datatype = gpu_datatype(x->b);
    uint64_t shapes[GPU_PRODUCTS][2];

    gpu_shapes(c, shapes);
    x->words = gpu_weight(x->b, LIBSCHED_WEIGHT_TABLE, c->vocabulary, c->hidden, 1);
    x->positions = gpu_weight(x->b, LIBSCHED_WEIGHT_TABLE, c->positions, c->hidden, 1);
    x->gain = gpu_weight(x->b, LIBSCHED_WEIGHT_VECTOR, 1, c->hidden, 1);
    x->shift = gpu_weight(x->b, LIBSCHED_WEIGHT_VECTOR, 1, c->hidden, 1);
    for (int p = 0; p < GPU_PRODUCTS; p++) {
        x->products[p] =
            gpu_weight(x->b, LIBSCHED_WEIGHT_LINEAR, shapes[p][0], shapes[p][1], 0.05f);
        x->biases[p] = gpu_weight(x->b, LIBSCHED_WEIGHT_VECTOR, 1, shapes[p][0], 0.1f);
    }
    x->states = gpu_buffer(x->b, LIBSCHED_FP32, x->tokens, c->hidden);
    x->half =
        datatype == LIBSCHED_BF16 ? gpu_buffer(x->b, LIBSCHED_BF16, x->tokens, c->hidden) : NULL;
    x->qkv = gpu_buffer(x->b, datatype, x->tokens, 3 * (uint64_t)c->hidden);
    x->context = gpu_buffer(x->b, datatype, x->tokens, c->hidden);
    x->middle = gpu_buffer(x->b, datatype, x->tokens, c->intermediate);
    x->pooled = gpu_buffer(x->b, LIBSCHED_FP32, x->tokens, c->hidden);
    make_sequences(x);
}

static void drop(struct bench *x)
{
    const libsched_device_driver *driver = x->b->driver;
    libsched_device *device = x->b->device;
    libsched_device_buffer *buffers[] = {x->states,  x->half,   x->qkv,
                                         x->context, x->middle, x->pooled};

    driver->weight_destroy(device, x->words);
    driver->weight_destroy(device, x->positions);
    driver->weight_destroy(device, x->gain);
    driver->weight_destroy(device, x->shift);
    for (int p = 0; p < GPU_PRODUCTS; p++) {
        driver->weight_destroy(device, x->products[p]);
        driver->weight_destroy(device, x->biases[p]);
    }
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        driver->buffer_destroy(device, buffers[i]);
    driver->sequences_destroy(device, x->sequences);
}

/* -------------------------------------------------------------------------------- operations */

static void product(struct bench *x, int which, const libsched_device_buffer *input,
                    uint32_t activation, bool accumulate, libsched_device_buffer *output)
{
    const libsched_device_linear_args args = {
        .struct_size = sizeof(args),
        .rows = x->tokens,
        .input = input,
        .weight = x->products[which],
        .bias = x->biases[which],
        .activation = activation,
        .accumulate = accumulate,
        .output = output,
    };
    libsched_error err;

    gpu_check(x->b->driver->linear(x->b->device, &args, &err), &err, "a product");
}

static void embed(struct bench *x)
{
    const libsched_device_embed_args args = {
        .struct_size = sizeof(args),
        .sequences = x->sequences,
        .words = x->words,
        .positions = x->positions,
        .gain = x->gain,
        .shift = x->shift,
        .epsilon = 1e-12f,
        .output = x->states,
        .output_bf16 = x->half,
    };
    libsched_error err;

    gpu_check(x->b->driver->embed(x->b->device, &args, &err), &err, "embed");
}

static void attention(struct bench *x)
{
    const struct encoder_config *c = &x->b->config;
    const libsched_device_attention_args args = {
        .struct_size = sizeof(args),
        .sequences = x->sequences,
        .qkv = x->qkv,
        .heads = c->heads,
        .head_size = c->hidden / c->heads,
        .scale = 0.17677669f,
        .output = x->context,
    };
    libsched_error err;

    gpu_check(x->b->driver->attention(x->b->device, &args, &err), &err, "attention");
}

static void norm(struct bench *x)
{
    const libsched_device_norm_args args = {
        .struct_size = sizeof(args),
        .rows = x->tokens,
        .input = x->states,
        .gain = x->gain,
        .shift = x->shift,
        .epsilon = 1e-12f,
        .output = x->states,
        .output_bf16 = x->half,
    };
    libsched_error err;

    gpu_check(x->b->driver->norm(x->b->device, &args, &err), &err, "norm");
}

static void pool(struct bench *x)
{
    const libsched_device_pool_args args = {
        .struct_size = sizeof(args),
        .sequences = x->sequences,
        .input = x->states,
        .pooling = LIBSCHED_POOLING_MEAN,
        .normalize = true,
        .output = x->pooled,
    };
    libsched_error err;

    gpu_check(x->b->driver->pool(x->b->device, &args, &err), &err, "pool");
}

static void run(void *context)
{
    struct bench *x = context;
    const libsched_device_buffer *input = x->half != NULL ? x->half : x->states;

    switch (x->operation) {
    case EMBED:
        embed(x);
        break;
    case QKV:
        product(x, GPU_QKV, input, LIBSCHED_ACTIVATION_NONE, false, x->qkv);
        break;
    case ATTENTION:
        attention(x);
        break;
    case OUT:
        product(x, GPU_OUT, x->context, LIBSCHED_ACTIVATION_NONE, true, x->states);
        break;
    case NORM:
        norm(x);
        break;
    case UP:
        product(x, GPU_UP, input, LIBSCHED_ACTIVATION_GELU, false, x->middle);
        break;
    case DOWN:
        product(x, GPU_DOWN, x->middle, LIBSCHED_ACTIVATION_NONE, true, x->states);
        break;
    default:
        pool(x);
    }
}

/* How often a batch has it. */
static double times_of(const struct bench *x, int operation)
{
    const double layers = x->b->config.layers;

    return operation == EMBED || operation == POOL ? 1 : operation == NORM ? 2 * layers : layers;
}

/* What it can't do without: each operand once, and the rows of tables that are read. */
static struct work work_of(const struct bench *x, int operation)
{
    const double t = (double)x->tokens, h = x->b->config.hidden, m = x->b->config.intermediate;
    const double e = gpu_datatype(x->b) == LIBSCHED_BF16 ? 2 : 4;
    /* The states, and with BF16 their copy for the next product. */
    const double states = t * h * (4 + (x->half != NULL ? 2 : 0));

    switch (operation) {
    case EMBED:
        return (struct work){10 * t * h, 2 * e * t * h + states};
    case QKV:
        return (struct work){6 * t * h * h, e * (t * h + 3 * h * h + 3 * t * h)};
    case ATTENTION:
        return (struct work){4 * t * x->length * h, e * 4 * t * h};
    case OUT:
        return (struct work){2 * t * h * h, e * (t * h + h * h) + 8 * t * h};
    case NORM:
        return (struct work){8 * t * h, 4 * t * h + states};
    case UP:
        return (struct work){2 * t * h * m, e * (t * h + h * m + t * m)};
    case DOWN:
        return (struct work){2 * t * h * m, e * (t * m + h * m) + 8 * t * h};
    default:
        return (struct work){t * h, 4 * t * h + 4 * x->n * h};
    }
}

/* ------------------------------------------------------------------------------------- telling */

/* Of the two, what takes longer at the peak is what it is told in. */
static void tell(struct gpu_bench *b, const char *operation, uint32_t length, struct work work,
                 double seconds, const struct peaks *peaks)
{
    const bool known = peaks->flops > 0 && peaks->bytes > 0;
    const bool computes = known ? work.flops / peaks->flops > work.bytes / peaks->bytes
                                : work.flops / work.bytes > 100;
    const double amount = computes ? work.flops : work.bytes;
    const double peak = computes ? peaks->flops : peaks->bytes;

    report_add(b->report, computes ? "roofline_gflop_per_s" : "roofline_gb_per_s",
               json_pack("{s:s, s:i, s:f, s:f, s:f}", "operation", operation, "length", (int)length,
                         "gflop", work.flops * 1e-9, "mb", work.bytes * 1e-6, "us", seconds * 1e6),
               amount / seconds * 1e-9, computes ? "GFLOP/s" : "GB/s", peak * 1e-9);
}

static void measure(struct gpu_bench *b, uint32_t length, const struct peaks *peaks)
{
    struct bench x = {.b = b, .length = length};
    struct work all = {0};
    double seconds = 0, engine;
    uint64_t chunk =
        (uint64_t)b->tokens < GPU_CHUNK_TOKENS ? (uint64_t)b->tokens : GPU_CHUNK_TOKENS;

    x.n = (uint32_t)(chunk / length > 0 ? chunk / length : 1);
    x.tokens = (uint64_t)x.n * length;
    make(&x);
    /* What operations work on is there then. */
    for (x.operation = 0; x.operation < OPERATIONS; x.operation++)
        run(&x);
    for (x.operation = 0; x.operation < OPERATIONS; x.operation++) {
        const double each =
            gpu_time(b, b->seconds / 10 < MIN_SECONDS ? b->seconds / 10 : MIN_SECONDS, run, &x);
        const double times = times_of(&x, x.operation);
        const struct work work = work_of(&x, x.operation);

        tell(b, names[x.operation], length, work, each, peaks);
        all.flops += times * work.flops;
        all.bytes += times * work.bytes;
        seconds += times * each;
    }
    tell(b, "their sum", length, all, seconds, peaks);
    /* The same amount of work as it is done in a batch, with all that is beside it. */
    engine = engine_sequences_per_s(b, (int32_t)length);
    tell(b, "engine", length, all, x.n / engine, peaks);
    drop(&x);
}

void gpu_roofline(struct gpu_bench *b)
{
    struct peaks peaks = {0};

    if (b->bare != NULL) {
        const double size = 2.0 * b->size;

        peaks.flops = 2 * size * size * size /
                      gpu_bare_product(b->bare, (uint64_t)size, (uint64_t)size, (uint64_t)size);
        peaks.bytes = 2 * gpu_bare_device_copy(b->bare, 16 * b->copy_bytes[1]);
        report_add(b->report, "peak_gflop_per_s", json_pack("{s:s}", "of", "a bare product"),
                   peaks.flops * 1e-9, "GFLOP/s", 0);
        report_add(b->report, "peak_gb_per_s", json_pack("{s:s}", "of", "a bare copy"),
                   peaks.bytes * 1e-9, "GB/s", 0);
    }
    for (int i = 0; i < GPU_LENGTHS; i++)
        if (b->lengths[i] > 0)
            measure(b, (uint32_t)b->lengths[i], &peaks);
}
