/* SPDX-License-Identifier: Apache-2.0 */
/*
 * histograms: how long requests took, model by model. Apart from stats, which is asked for often.
 */
#include "port.h"
#include "reply.h"

static void put(struct frame_writer *w, const char *name, const uint64_t *buckets)
{
    encode_str(w, name);
    encode_array(w, LIBSCHED_HISTOGRAM_BUCKETS);
    for (unsigned i = 0; i < LIBSCHED_HISTOGRAM_BUCKETS; i++)
        encode_uint(w, buckets[i]);
}

void method_histograms(struct port *p, const struct message *m)
{
    struct frame_writer *w = &p->writer;
    uint32_t n = libsched_model_count(p->sched);

    p->described.specs = NULL;
    reply_begin(p, m->index);
    encode_map(w, n);
    for (uint32_t i = 0; i < n; i++) {
        libsched_model_info info = LIBSCHED_MODEL_INFO_INIT;
        libsched_histograms h = LIBSCHED_HISTOGRAMS_INIT;
        libsched_model_get(p->sched, i, &info);
        libsched_model_histograms(p->sched, info.name, &h);
        encode_str(w, info.name);
        encode_map(w, 5);
        put(w, "queue_us", h.queue_us);
        put(w, "compute_us", h.compute_us);
        put(w, "total_us", h.total_us);
        put(w, "batch", h.batch);
        encode_key(w, "batch_sum");
        encode_uint(w, h.batch_sum);
    }
    reply_end(p, m->index);
}
