/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the instruments of a device show: how busy, how hot, how full it is, and what went wrong
 * with it. A driver reads them (libsched/device.h), a user is told of them (libsched.h).
 */
#ifndef LIBSCHED_READINGS_H
#define LIBSCHED_READINGS_H

#include <stdint.h>

#include <libsched/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bits of `has`. What a device has no instrument for, or what could not be read, is zero. */
enum libsched_reading {
    LIBSCHED_READING_UTILIZATION = 1u << 0,
    LIBSCHED_READING_MEMORY = 1u << 1,
    LIBSCHED_READING_TEMPERATURE = 1u << 2,
    LIBSCHED_READING_POWER = 1u << 3,
    LIBSCHED_READING_POWER_LIMIT = 1u << 4,
    LIBSCHED_READING_ENERGY = 1u << 5,
    LIBSCHED_READING_THROTTLE = 1u << 6,
    LIBSCHED_READING_LINKS = 1u << 7,
    LIBSCHED_READING_ECC = 1u << 8,
    LIBSCHED_READING_XID = 1u << 9,
};

/* Why a device computes with less than its full clock. None of them: it does not, or has nothing to
 * do. */
enum libsched_throttle {
    LIBSCHED_THROTTLE_POWER = 1u << 0,    /* it takes all the power it may */
    LIBSCHED_THROTTLE_THERMAL = 1u << 1,  /* it is too hot */
    LIBSCHED_THROTTLE_HARDWARE = 1u << 2, /* the hardware slows it down: heat or power supply */
    LIBSCHED_THROTTLE_BRAKE = 1u << 3,    /* the machine's power supply asks for it */
    LIBSCHED_THROTTLE_SETTING = 1u << 4,  /* somebody has set a lower clock */
    LIBSCHED_THROTTLE_SYNC = 1u << 5,     /* it keeps to the clock of others */
};

typedef struct libsched_device_readings {
    uint32_t struct_size;
    uint32_t has;                 /* libsched_reading */
    uint64_t age_ns;              /* how long ago they were read; 0 from a driver */
    uint32_t utilization_percent; /* of the last moment: in so much of it something was computed */
    uint32_t memory_busy_percent; /* likewise: its memory was read or written */
    uint64_t memory_total, memory_used; /* bytes, by whomever */
    int32_t temperature_c;
    uint32_t power_mw, power_limit_mw;
    uint32_t throttle;  /* libsched_throttle */
    uint64_t energy_mj; /* since its driver was loaded; likewise ECC errors */
    uint64_t ecc_corrected, ecc_uncorrected;
    uint64_t xid_count;       /* errors of NVIDIA's driver, since it was opened */
    uint32_t last_xid;        /* the number of the last of them; 0: there was none */
    uint32_t links, links_up; /* NVLinks */
    char uuid[64];            /* "GPU-..."; empty: not known */
    /* Why there are none, or why one of them is missing; empty where nothing is amiss. */
    char reason[LIBSCHED_MESSAGE_SIZE];
} libsched_device_readings;

#ifdef __cplusplus
}
#endif

#endif
