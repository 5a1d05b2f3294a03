/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark "gpu": what a GPU does for the scheduler, beside what it does by itself.
 *
 * least_cosine_to_cpu: of embeddings, to those of the CPU device in f32; beside what is aimed at.
 *
 * engine_sequences_per_s: a bare loop over the encoder as an engine, with two steps that fill the
 * device under way; beside the bare matrix products of the same shapes.
 *
 * sequences_per_s: the same through libsched, its scheduler and a worker process, which always have
 * more to do than fits in a batch, with one sequence a request and with 32; beside the bare loop.
 *
 * device_busy_percent: meanwhile, the time that the GPU computed batches, by its own clock;
 * in_batches_percent: the time in which there was a batch, by the scheduler's.
 *
 * single_request_p50_us, single_request_p99_us: one short text, in this process, from submitting it
 * until its answer is there, with nothing else to do; beside the engine alone.
 *
 * graph_batch_us: one sequence, through the engine; beside the same without CUDA graphs.
 *
 * gemm_gflop_per_s: products through the plugin; job_gemm_gflop_per_s: by the program "gemm" as a
 * job; beside a bare loop of cuBLASLt.
 *
 * upload_gb_per_s, download_gb_per_s: copies through the plugin; beside bare copies of pinned
 * memory. direct_upload_gb_per_s, direct_download_gb_per_s: the same of memory that the plugin was
 * told of, as of a worker's requests and results.
 *
 * allreduce_busbw_gb_per_s: by the program "allreduce" as a job, on a device of each GPU, or two of
 * the only one; beside NCCL by itself. The bus bandwidth is that of nccl-tests: bytes / time ·
 * 2 (n - 1) / n.
 *
 * peak_gflop_per_s, peak_gb_per_s: of a bare product and of a bare copy within the device, which
 * reads and writes. roofline_gflop_per_s, roofline_gb_per_s: of each operation of the encoder, in
 * whichever of the two takes longer at the peak; beside that peak. "their sum" is that of a batch,
 * "engine" what the bare loop over the engine takes for it.
 *
 * The model is that of --model, else GPU_SCHED_MINILM, else one of MiniLM's shape with random
 * weights. Where there is no GPU it says why, and that it skips. --device cpu, and --small, are to
 * see that it works. Bare loops are there where it was built with the toolkit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../steps.h"
#include "checkpoint.h"
#include "device/loader.h"
#include "gpu.h"

#define SKIPPED 77
#define MISUSED 64

struct options {
    const char *device, *model, *out, *only;
    bool json, small;
    double seconds;
    long tokens;
};

static int usage(void)
{
    fprintf(
        stderr,
        "usage: bench-gpu [--json] [--only PART] [--seconds S] [--model FOLDER] [--out FOLDER]\n"
        "                 [--device cuda|cpu] [--tokens N] [--small]\n"
        "--tokens: of a step that fills the device, 65536 unless it is given\n"
        "PART: crosscheck, encoder, single, graphs, gemm, copies, jobs or roofline\n"
        "--seconds: that a measurement takes, 2 unless it is given\n"
        "--out: where the model goes that is made up, and what bench/gpu_peers.py compares\n"
        "GPU_SCHED_PLUGINS names the folder of the CUDA plugin\n");
    return MISUSED;
}

static bool read_options(struct options *o, int argc, char **argv)
{
    *o = (struct options){.device = "cuda", .model = getenv("GPU_SCHED_MINILM"), .seconds = 2};
    for (int i = 1; i < argc; i++) {
        const bool more = i + 1 < argc;

        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[i], "--small") == 0)
            o->small = true;
        else if (strcmp(argv[i], "--device") == 0 && more)
            o->device = argv[++i];
        else if (strcmp(argv[i], "--model") == 0 && more)
            o->model = argv[++i];
        else if (strcmp(argv[i], "--out") == 0 && more)
            o->out = argv[++i];
        else if (strcmp(argv[i], "--only") == 0 && more)
            o->only = argv[++i];
        else if (strcmp(argv[i], "--seconds") == 0 && more && atof(argv[i + 1]) > 0)
            o->seconds = atof(argv[++i]);
        else if (strcmp(argv[i], "--tokens") == 0 && more && atol(argv[i + 1]) > 0)
            o->tokens = atol(argv[++i]);
        else
            return false;
    }
    return strcmp(o->device, "cuda") == 0 || strcmp(o->device, "cpu") == 0;
}

/* What is measured, of which sizes. */
static void set_sizes(struct gpu_bench *b, const struct options *o)
{
    static const int32_t lengths[GPU_LENGTHS] = {16, 128, 512, 0},
                         small[GPU_LENGTHS] = {4, 8, 16, 0};

    b->seconds = o->seconds;
    memcpy(b->lengths, o->small ? small : lengths, sizeof(b->lengths));
    b->tokens = o->tokens > 0 ? o->tokens : o->small ? 32 : 65536;
    b->several = o->small ? 4 : 32;
    b->compared = o->small ? 6 : 32;
    b->size = o->small ? 64 : 4096;
    b->copy_bytes[0] = UINT64_C(1) << (o->small ? 16 : 20);
    b->copy_bytes[1] = UINT64_C(1) << (o->small ? 18 : 26);
    b->all_reduce_bytes = UINT64_C(1) << (o->small ? 14 : 28);
}

static const char *choose_model(struct gpu_bench *b, const struct options *o, char *made,
                                size_t size)
{
    libsched_error err;

    made[0] = '\0';
    b->folder = o->model != NULL && o->model[0] != '\0' && !o->small ? o->model : made;
    if (b->folder == made) {
        char folder[] = "/tmp/bench-gpu-model-XXXXXX";

        if (o->out == NULL && mkdtemp(folder) == NULL)
            gpu_die(folder, "it can't be made");
        if ((size_t)snprintf(made, size, "%s%s", o->out != NULL ? o->out : folder,
                             o->out != NULL ? "/model" : "") >= size)
            gpu_die(o->out, "the path is too long");
        checkpoint_write(o->small ? &checkpoint_small : &checkpoint_minilm, made);
    }
    gpu_check(encoder_config_load(&b->config, b->folder, &err), &err, b->folder);
    return b->folder == made ? "random weights" : b->folder;
}

static int open_device(struct gpu_bench *b, const struct options *o, libsched_error *err)
{
    const char *plugins = getenv("GPU_SCHED_PLUGINS");
    const libsched_device_open_args args = {.struct_size = sizeof(args), .threads = 1};
    int status;

    b->cuda = strcmp(o->device, "cuda") == 0;
    b->threads = 1;
    b->plugins = b->cuda ? (plugins != NULL ? plugins : CUDA_PLUGIN_FOLDER) : NULL;
    status = device_find_driver(&b->driver, o->device, b->plugins, err);
    /* Whether it can be opened at all. */
    if (status == LIBSCHED_OK)
        status = b->driver->open(&b->device, &args, err);
    if (status == LIBSCHED_OK) {
        b->driver->close(b->device);
        b->device = gpu_open(b);
    }
    return status;
}

static bool wanted(const struct options *o, const char *part)
{
    return o->only == NULL || strcmp(o->only, part) == 0;
}

static bool run_parts(struct gpu_bench *b, const struct options *o)
{
    static const struct {
        const char *name;
        void (*run)(struct gpu_bench *b);
    } parts[] = {
        {"encoder", gpu_encoder},   {"single", gpu_single}, {"graphs", gpu_graphs},
        {"gemm", gpu_gemm},         {"copies", gpu_copies}, {"jobs", gpu_jobs},
        {"roofline", gpu_roofline},
    };
    bool any = wanted(o, "crosscheck");

    if (any)
        gpu_crosscheck(b, o->out);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (!wanted(o, parts[i].name))
            continue;
        parts[i].run(b);
        any = true;
    }
    return any;
}

int main(int argc, char **argv)
{
    libsched_device_properties info = {.struct_size = sizeof(info)};
    struct gpu_bench b = {0};
    struct options o;
    char made[4096];
    libsched_error err = {0};
    bool any;
    int code;

    if (gpu_bare_is_rank(argc, argv, &code))
        return code;
    if (!read_options(&o, argc, argv))
        return usage();
    if (open_device(&b, &o, &err) != LIBSCHED_OK) {
        fprintf(stderr, "bench-gpu: skipped: %s\n", err.message);
        return SKIPPED;
    }
    if (o.out != NULL)
        mkdir(o.out, 0777);
    gpu_check(b.driver->info(b.device, &info, &err), &err, "the device");
    snprintf(b.text, sizeof(b.text), "%s", info.text);
    b.precision = (info.flags & LIBSCHED_DEVICE_BF16) != 0 ? "bf16" : "f32";
    set_sizes(&b, &o);
    b.report = report_open("gpu", o.json);
    report_machine(b.report, "device", info.text);
    report_machine(b.report, "model", choose_model(&b, &o, made, sizeof(made)));
    if (b.cuda)
        b.bare = gpu_bare_open(o.seconds / 4);
    any = run_parts(&b, &o);
    report_close(b.report);
    if (b.bare != NULL)
        gpu_bare_close(b.bare);
    b.driver->close(b.device);
    if (made[0] != '\0' && o.out == NULL)
        checkpoint_remove(made);
    return any ? 0 : usage();
}
