/* SPDX-License-Identifier: Apache-2.0 */
/* Copies through the plugin, beside bare copies of pinned memory. */
#include <string.h>
#include <errno.h>
#include <sys/mman.h>

#include "device/loader.h"
#include "gpu.h"

#define COLUMNS 1024u

struct copy {
    struct gpu_bench *b;
    libsched_device_buffer *buffer;
    void *host;
    uint64_t rows;
    bool up;
};

static void run(const struct copy *c)
{
    const libsched_device_driver *driver = c->b->driver;
    libsched_error err;

    gpu_check(c->up ? driver->upload(c->b->device, c->buffer, 0, c->rows, c->host, &err)
                    : driver->download(c->b->device, c->buffer, 0, c->rows, c->host, &err),
              &err, c->up ? "upload" : "download");
    gpu_synchronize(c->b);
}

static void measure(struct gpu_bench *b, uint64_t bytes, bool direct)
{
    static const char *const names[2][2] = {
        {"download_gb_per_s", "upload_gb_per_s"},
        {"direct_download_gb_per_s", "direct_upload_gb_per_s"},
    };
    struct copy copy = {.b = b, .rows = bytes / (COLUMNS * sizeof(float)), .up = true};
    libsched_device_host_args memory = {.struct_size = sizeof(memory), .size = bytes};
    libsched_error err;

    /* As workers have it. */
    copy.host =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (copy.host == MAP_FAILED)
        gpu_die("memory to copy from", strerror(errno));
    copy.buffer = gpu_buffer(b, LIBSCHED_FP32, copy.rows, COLUMNS);
    memory.memory = copy.host;
    if (direct)
        gpu_check(b->driver->host_register(b->device, &memory, &err), &err, "memory");
    /* Until it is pinned. */
    run(&copy);
    for (int up = 0; up < 2; up++) {
        uint64_t runs = 0;
        double seconds, begin = gpu_now();

        copy.up = up != 0;
        do {
            run(&copy);
            runs++;
            seconds = gpu_now() - begin;
        } while (seconds < b->seconds);
        report_add(b->report, names[direct][up],
                   json_pack("{s:f}", "mib", (double)bytes / (1 << 20)),
                   (double)bytes * (double)runs / seconds * 1e-9, "GB/s",
                   b->bare != NULL ? gpu_bare_copy(b->bare, bytes, up != 0) * 1e-9 : 0);
    }
    if (direct)
        b->driver->host_unregister(b->device, copy.host);
    b->driver->buffer_destroy(b->device, copy.buffer);
    munmap(copy.host, bytes);
}

void gpu_copies(struct gpu_bench *b)
{
    const bool can = device_has_host_memory(b->driver);

    for (int direct = 0; direct < 1 + can; direct++)
        for (int i = 0; i < 2; i++)
            measure(b, b->copy_bytes[i], direct != 0);
}
