/* SPDX-License-Identifier: Apache-2.0 */
/* How long requests took, in buckets that double. */
#include "runtime/internal.h"

#define LAST (LIBSCHED_HISTOGRAM_BUCKETS - 1)

/* The first bucket that `value` is not above. */
static unsigned bucket(uint64_t value)
{
    unsigned i = value <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(value - 1);
    return i < LAST ? i : LAST;
}

/* Rounded up, so that no time is in a bucket whose limit it exceeds. */
static unsigned bucket_of_ns(uint64_t ns)
{
    return bucket(ns / 1000 + (ns % 1000 != 0));
}

void runtime_histograms_count(libsched_histograms *h, const libsched_completion *end)
{
    h->queue_us[bucket_of_ns(end->queue_ns)]++;
    h->compute_us[bucket_of_ns(end->compute_ns)]++;
    h->total_us[bucket_of_ns(end->queue_ns + end->compute_ns)]++;
    h->batch[bucket(end->batch_size)]++;
    h->batch_sum += end->batch_size;
}

int libsched_model_histograms(libsched *s, const char *name, libsched_histograms *out)
{
    libsched_histograms histograms;
    runtime_lock(s);
    const struct runtime_model *model = name != NULL ? runtime_model_by_name(s, name) : NULL;
    if (model != NULL)
        histograms = model->histograms;
    runtime_unlock(s);
    if (model == NULL)
        return LIBSCHED_ENOMODEL;
    return runtime_struct_write(out, &histograms, sizeof(histograms));
}
