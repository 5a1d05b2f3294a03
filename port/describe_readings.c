/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device's instruments show, as the map that stands for it in messages.
 */
#include "port.h"
#include "reply.h"

static void put_number(struct frame_writer *w, const char *name, uint64_t value)
{
    encode_str(w, name);
    encode_uint(w, value);
}

static void put_throttle(struct frame_writer *w, uint32_t throttle)
{
    static const char *const names[] = {"power", "thermal", "hardware", "brake", "setting", "sync"};
    const uint32_t n = sizeof(names) / sizeof(names[0]);

    encode_array(w, (uint32_t)__builtin_popcount(throttle & ((1u << n) - 1)));
    for (uint32_t i = 0; i < n; i++)
        if ((throttle & 1u << i) != 0)
            encode_str(w, names[i]);
}

/* What is not known is left out. */
static void put_readings(struct frame_writer *w, const libsched_device_readings *r)
{
    const struct {
        uint32_t bit;
        const char *name;
        uint64_t value;
    } numbers[] = {
        {LIBSCHED_READING_UTILIZATION, "utilization_percent", r->utilization_percent},
        {LIBSCHED_READING_UTILIZATION, "memory_busy_percent", r->memory_busy_percent},
        {LIBSCHED_READING_MEMORY, "memory_total_bytes", r->memory_total},
        {LIBSCHED_READING_MEMORY, "memory_used_bytes", r->memory_used},
        {LIBSCHED_READING_POWER, "power_mw", r->power_mw},
        {LIBSCHED_READING_POWER_LIMIT, "power_limit_mw", r->power_limit_mw},
        {LIBSCHED_READING_ENERGY, "energy_mj", r->energy_mj},
        {LIBSCHED_READING_LINKS, "links", r->links},
        {LIBSCHED_READING_LINKS, "links_up", r->links_up},
        {LIBSCHED_READING_ECC, "ecc_corrected", r->ecc_corrected},
        {LIBSCHED_READING_ECC, "ecc_uncorrected", r->ecc_uncorrected},
        {LIBSCHED_READING_XID, "xid_count", r->xid_count},
        {LIBSCHED_READING_XID, "last_xid", r->last_xid},
    };
    const uint32_t n = sizeof(numbers) / sizeof(numbers[0]);
    const bool temperature = (r->has & LIBSCHED_READING_TEMPERATURE) != 0;
    const bool throttle = (r->has & LIBSCHED_READING_THROTTLE) != 0;
    uint32_t pairs = 1 + (r->has != 0) + (r->uuid[0] != '\0') + temperature + throttle;
    for (uint32_t i = 0; i < n; i++)
        pairs += (r->has & numbers[i].bit) != 0;

    encode_map(w, pairs);
    encode_key(w, "reason");
    encode_words(w, r->reason);
    if (r->has != 0)
        put_number(w, "age_ms", r->age_ns / 1000000);
    if (r->uuid[0] != '\0') {
        encode_key(w, "uuid");
        encode_words(w, r->uuid);
    }
    if (temperature) {
        encode_key(w, "temperature_c");
        encode_int(w, r->temperature_c);
    }
    if (throttle) {
        encode_key(w, "throttle");
        put_throttle(w, r->throttle);
    }
    for (uint32_t i = 0; i < n; i++)
        if ((r->has & numbers[i].bit) != 0)
            put_number(w, numbers[i].name, numbers[i].value);
}

void describe_readings(struct port *p, uint32_t device)
{
    libsched_device_readings readings = LIBSCHED_DEVICE_READINGS_INIT;
    libsched_device_get_readings(p->sched, device, &readings);
    put_readings(&p->writer, &readings);
}
