/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/memory.h"

#define PAGE 4096u

static uint64_t pages(uint64_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static uint64_t cancelled_offset(void)
{
    return pages(sizeof(struct channel_header));
}

static uint64_t released_offset(void)
{
    return cancelled_offset() + pages(CHANNEL_ITEMS);
}

static uint64_t command_offset(void)
{
    return released_offset() + pages(CHANNEL_RESULTS * sizeof(uint32_t));
}

static uint64_t event_offset(void)
{
    return command_offset() + CHANNEL_COMMAND_BYTES;
}

uint64_t channel_size(void)
{
    return event_offset() + CHANNEL_EVENT_BYTES;
}

static int map(struct channel *channel, int fd, libsched_error *err)
{
    void *base;
    int status = memory_map(&base, fd, channel_size(), true, err);
    if (status < 0)
        return status;
    unsigned char *bytes = base;
    channel->header = base;
    channel->cancelled = bytes + cancelled_offset();
    channel->released = (uint32_t *)(void *)(bytes + released_offset());
    channel->command_data = bytes + command_offset();
    channel->event_data = bytes + event_offset();
    return LIBSCHED_OK;
}

static struct channel_identity identity(uint64_t epoch)
{
    return (struct channel_identity){
        .magic = CHANNEL_MAGIC,
        .abi = CHANNEL_ABI,
        .engine_abi = LIBSCHED_ENGINE_ABI,
        .header_size = sizeof(struct channel_header),
        .description_size = sizeof(libsched_engine_description),
        .epoch = epoch,
    };
}

/* `other` is a copy. */
static int check(const struct channel_identity *other, const char *who, uint64_t epoch,
                 libsched_error *err)
{
    struct channel_identity own = identity(epoch);
    if (other->magic != own.magic)
        return libsched_error_set(err, LIBSCHED_EPROTOCOL,
                                  "the %s's shared memory begins with %016" PRIx64
                                  ", not with what sched-worker understands",
                                  who, other->magic);
    if (other->abi != own.abi || other->engine_abi != own.engine_abi)
        return libsched_error_set(err, LIBSCHED_EPROTOCOL,
                                  "the %s speaks version %" PRIu32 ".%" PRIu32
                                  ", this side %" PRIu32 ".%" PRIu32
                                  ": install libsched and sched-worker from the same build",
                                  who, other->abi, other->engine_abi, own.abi, own.engine_abi);
    if (other->header_size != own.header_size || other->description_size != own.description_size)
        return libsched_error_set(err, LIBSCHED_EPROTOCOL,
                                  "the %s's structs have %" PRIu32 " and %" PRIu32
                                  " bytes, this side's %" PRIu32 " and %" PRIu32
                                  ": install libsched and sched-worker from the same build",
                                  who, other->header_size, other->description_size, own.header_size,
                                  own.description_size);
    if (other->epoch != own.epoch)
        return libsched_error_set(err, LIBSCHED_EPROTOCOL,
                                  "the %s is of epoch %" PRIu64 ", not %" PRIu64, who, other->epoch,
                                  own.epoch);
    return LIBSCHED_OK;
}

int channel_create(struct channel *channel, int *fd, uint64_t epoch, uint64_t result_bytes,
                   libsched_error *err)
{
    int memory;
    int status = memory_create(&memory, "sched-channel", channel_size(), err);
    if (status < 0)
        return status;
    /* What could be cut short by the other side could kill this one. */
    status = memory_seal(memory, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, err);
    if (status == 0)
        status = map(channel, memory, err);
    if (status < 0) {
        close(memory);
        return status;
    }
    channel->header->host = identity(epoch);
    channel->header->result_bytes = result_bytes;
    *fd = memory;
    return LIBSCHED_OK;
}

int channel_attach(struct channel *channel, int fd, libsched_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return libsched_error_set(err, LIBSCHED_ESYSTEM, "fstat of descriptor %d: %m", fd);
    if ((uint64_t)st.st_size < channel_size())
        return libsched_error_set(err, LIBSCHED_EPROTOCOL,
                                  "the host's shared memory has %" PRIu64 " bytes, not %" PRIu64
                                  ": install libsched and sched-worker from the same build",
                                  (uint64_t)st.st_size, channel_size());
    int status = map(channel, fd, err);
    if (status < 0)
        return status;
    struct channel_identity host = channel->header->host;
    channel->header->worker = identity(host.epoch);
    return check(&host, "host", host.epoch, err);
}

int channel_check_worker(const struct channel *channel, uint64_t epoch, libsched_error *err)
{
    struct channel_identity worker;
    memcpy(&worker, &channel->header->worker, sizeof(worker));
    return check(&worker, "worker", epoch, err);
}

void channel_detach(struct channel *channel)
{
    memory_unmap(channel->header, channel_size());
    *channel = (struct channel){0};
}

void channel_speak(struct channel *channel, int status, const char *text)
{
    struct channel_last_words *words = &channel->header->last_words;
    if (words->spoken)
        return;
    words->status = status;
    strncpy(words->text, text, sizeof(words->text) - 1);
    __atomic_store_n(&words->spoken, 1, __ATOMIC_RELEASE);
}

bool channel_read_last_words(const struct channel *channel, libsched_error *out)
{
    const struct channel_last_words *words = &channel->header->last_words;
    if (__atomic_load_n(&words->spoken, __ATOMIC_ACQUIRE) == 0)
        return false;
    char text[LIBSCHED_MESSAGE_SIZE];
    memcpy(text, words->text, sizeof(text));
    text[sizeof(text) - 1] = '\0';
    int status = words->status;
    if (status >= 0 || strcmp(libsched_status_name(status), "unknown") == 0)
        status = LIBSCHED_EDEVICELOST;
    libsched_error_set(out, status, "%s", text);
    return true;
}

/* A sequence lock, of which each part is atomic: what is stored after the odd version is not seen
 * before it, and what was loaded before the second look at the version is not newer than it. */
void channel_put_readings(struct channel *channel, const libsched_device_readings *readings,
                          uint64_t now)
{
    struct channel_readings *to = &channel->header->readings;
    uint64_t words[CHANNEL_READING_WORDS] = {0};
    uint64_t version = __atomic_load_n(&to->version, __ATOMIC_RELAXED) | 1;

    memcpy(words, readings, sizeof(*readings));
    __atomic_store_n(&to->version, version, __ATOMIC_RELAXED);
    __atomic_store_n(&to->read_at, now, __ATOMIC_RELEASE);
    for (size_t i = 0; i < CHANNEL_READING_WORDS; i++)
        __atomic_store_n(&to->words[i], words[i], __ATOMIC_RELEASE);
    __atomic_store_n(&to->version, version + 1, __ATOMIC_RELEASE);
}

/* A writer needs less than a microsecond once a second. */
#define READ_TRIES 16

bool channel_get_readings(const struct channel *channel, libsched_device_readings *out,
                          uint64_t *read_at)
{
    const struct channel_readings *from = &channel->header->readings;
    uint64_t words[CHANNEL_READING_WORDS];

    for (int tries = 0; tries < READ_TRIES; tries++) {
        uint64_t version = __atomic_load_n(&from->version, __ATOMIC_ACQUIRE);

        if (version == 0)
            return false;
        if (version % 2 != 0)
            continue;
        *read_at = __atomic_load_n(&from->read_at, __ATOMIC_ACQUIRE);
        for (size_t i = 0; i < CHANNEL_READING_WORDS; i++)
            words[i] = __atomic_load_n(&from->words[i], __ATOMIC_ACQUIRE);
        if (__atomic_load_n(&from->version, __ATOMIC_RELAXED) != version)
            continue;
        memcpy(out, words, sizeof(*out));
        out->uuid[sizeof(out->uuid) - 1] = '\0';
        out->reason[sizeof(out->reason) - 1] = '\0';
        return true;
    }
    return false;
}

void channel_wake(int eventfd)
{
    const uint64_t one = 1;
    while (write(eventfd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}
