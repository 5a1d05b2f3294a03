/* SPDX-License-Identifier: Apache-2.0 */
/* One short request after the other: how long whoever asks in this process waits. */
#include <stdlib.h>
#include <string.h>

#include "../local.h"
#include "engine.h"
#include "served.h"

/* Six words of any vocabulary; with [CLS] and [SEP] so many tokens. */
#define TEXT "a b c d e f"
#define TOKENS 8
#define MAX_REQUESTS 100000u
#define WARM_UPS 5 /* at least, until the scheduler has learnt what a batch costs */

static double ask(struct served *served)
{
    unsigned char data[sizeof(uint32_t) + sizeof(TEXT) - 1];
    const uint32_t length = sizeof(TEXT) - 1;
    libsched_request request = LIBSCHED_REQUEST_INIT;
    const double begin = gpu_now();
    libsched_completion done[4];
    libsched_error err;
    bool ended = false;
    uint64_t id;

    memcpy(data, &length, sizeof(length));
    memcpy(data + sizeof(length), TEXT, length);
    const libsched_tensor text = {
        .name = "text",
        .datatype = LIBSCHED_BYTES,
        .rank = 1,
        .shape = {1},
        .data = data,
        .size = sizeof(data),
    };
    request.model = "bench";
    request.inputs = &text;
    request.n_inputs = 1;
    gpu_check(libsched_submit(served->s, &request, &id, &err), &err, "a request");
    while (!ended) {
        const size_t n = served_turn(served, done, 4);

        for (size_t i = 0; i < n; i++) {
            if (done[i].kind != LIBSCHED_END)
                continue;
            if (done[i].status != LIBSCHED_OK)
                gpu_die("a request", done[i].message);
            ended = true;
        }
        libsched_release(served->s, done, n);
    }
    return gpu_now() - begin;
}

void gpu_single(struct gpu_bench *b)
{
    static const struct {
        const char *metric;
        double percent;
    } told[] = {{"single_request_p50_us", 50}, {"single_request_p99_us", 99}};
    double *times = gpu_allocate(MAX_REQUESTS, sizeof(*times)), *alone, begin;
    size_t n = 0, n_alone;
    struct served served;

    alone = engine_single(b, TOKENS, true, &n_alone);
    served_open(&served, b, 1);
    served_load(&served, b);
    begin = gpu_now();
    for (int i = 0; i < WARM_UPS || gpu_now() - begin < b->seconds / 4; i++)
        ask(&served);
    begin = gpu_now();
    while (n < MAX_REQUESTS && gpu_now() - begin < b->seconds)
        times[n++] = ask(&served);
    served_close(&served);
    for (int i = 0; i < 2; i++)
        report_add(
            b->report, told[i].metric,
            json_pack("{s:i, s:i, s:s}", "tokens", TOKENS, "request", 1, "precision", b->precision),
            1e6 * local_percentile(times, n, told[i].percent), "us",
            1e6 * local_percentile(alone, n_alone, told[i].percent));
    free(times);
    free(alone);
}
