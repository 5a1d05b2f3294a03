// SPDX-License-Identifier: Apache-2.0
// A worker that does not keep to the rules, in the way that HOSTILE says. The tests start it in
// place of sched-worker.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libsched/device.h>

#include "worker/channel.h"
#include "worker/protocol.h"
#include "worker/wire.h"

namespace
{

channel shared;
ring events;

[[noreturn]] void wait_for_the_end()
{
    for (;;)
        pause();
}

void send(uint32_t type, const wire_writer &out)
{
    ring_write(&events, type, out.data, uint32_t(out.length));
    if (ring_must_wake_consumer(&events))
        channel_wake(CHANNEL_FD_WAKE_HOST);
}

void log(const std::string &line)
{
    wire_writer out = {};
    wire_put_string(&out, line.c_str());
    send(EVENT_LOG, out);
    wire_writer_free(&out);
}

void up()
{
    send(EVENT_UP, wire_writer{});
}

// Until the host has given it something to do behind the set-up.
void await_command()
{
    ring commands;
    ring_attach(&commands, &shared.header->commands, shared.command_data, CHANNEL_COMMAND_BYTES);
    for (int taken = 0; taken < 2;) {
        ring_record record;
        if (ring_peek(&commands, &record) == RING_RECORD) {
            std::vector<unsigned char> payload(record.length);
            ring_take(&commands, &record, payload.data());
            taken++;
        } else {
            usleep(100);
        }
    }
}

// The end of item 1 in batch 1, with an output.
void end_item(uint64_t id, uint32_t status, uint32_t n, const char *name, uint32_t datatype,
              uint32_t rank, int64_t dimension, uint64_t offset, uint64_t size)
{
    wire_writer out = {};
    wire_put_u64(&out, 1);
    wire_put_u64(&out, id);
    wire_put_u64(&out, 1);
    wire_put_u64(&out, 0);
    wire_put_u32(&out, status);
    wire_put_string(&out, nullptr);
    wire_put_u32(&out, n > 0 ? 0 : PROTOCOL_NO_RESULTS);
    wire_put_u32(&out, n);
    for (uint32_t i = 0; i < n && i < 100; i++) {
        wire_put_string(&out, name);
        wire_put_u32(&out, datatype);
        wire_put_u32(&out, rank);
        for (uint32_t d = 0; d < rank && d < 100; d++)
            wire_put_u64(&out, uint64_t(dimension));
        wire_put_u64(&out, offset);
        wire_put_u64(&out, size);
    }
    send(EVENT_ITEM, out);
    wire_writer_free(&out);
}

// Nonsense about the rank of job 9, of which the host has asked for a start or a check.
void lie_about_rank(const std::string &mode)
{
    wire_writer out = {};
    auto event = [&](protocol_event type, uint64_t job, auto... words) {
        wire_reset(&out);
        wire_put_u64(&out, job);
        (wire_put_u64(&out, uint64_t(words)), ...);
        send(type, out);
    };
    auto started = [&](uint32_t status) {
        wire_reset(&out);
        wire_put_u64(&out, 9);
        wire_put_u32(&out, status);
        wire_put_string(&out, nullptr);
        send(EVENT_RANK_STARTED, out);
    };
    auto progress = [&](uint64_t done, uint64_t total) {
        wire_reset(&out);
        wire_put_u64(&out, 9);
        wire_put_u64(&out, done);
        wire_put_u64(&out, total);
        wire_put_string(&out, "x");
        send(EVENT_PROGRESS, out);
    };
    auto result = [&](const std::string &name, uint32_t type, const char *text) {
        wire_reset(&out);
        wire_put_u64(&out, 9);
        wire_put_string(&out, name.c_str());
        wire_put_u32(&out, type);
        if (text != nullptr)
            wire_put_string(&out, text);
        else
            wire_put_u64(&out, 1);
        send(EVENT_RESULT, out);
    };
    if (mode == "rank_other_job")
        event(EVENT_RANK_CLOSED, 10);
    else if (mode == "rank_unasked_step") {
        wire_put_u64(&out, 9);
        wire_put_u64(&out, 1);
        wire_put_u32(&out, 0);
        wire_put_string(&out, nullptr);
        wire_put_u32(&out, 1);
        wire_put_u64(&out, 0);
        wire_put_u64(&out, 0);
        send(EVENT_RANK_STEPPED, out);
    } else if (mode == "rank_unasked_close")
        event(EVENT_RANK_CLOSED, 9);
    else if (mode == "rank_status")
        started(5);
    else if (mode == "rank_started_twice") {
        started(0);
        started(0);
    } else if (mode == "rank_gone") {
        started(uint32_t(LIBSCHED_EENGINE));
        event(EVENT_RANK_CLOSED, 9);
    } else if (mode == "rank_id")
        event(EVENT_RANK_ID, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
    else if (mode == "rank_progress")
        progress(11, 10);
    else if (mode == "rank_result_type")
        result("x", 77, nullptr);
    else if (mode == "rank_result_name")
        result(std::string(100, 'n'), LIBSCHED_PARAMETER_INT, nullptr);
    else if (mode == "rank_results")
        for (int i = 0; i < 5000; i++)
            result(std::to_string(i), LIBSCHED_PARAMETER_STRING, "sixteen bytes...");
    else if (mode == "rank_load_id") {
        const unsigned char id[LIBSCHED_COMMUNICATOR_ID_SIZE] = {};
        wire_put_u32(&out, 0);
        wire_put_u32(&out, 0);
        wire_put(&out, id, sizeof(id));
        send(EVENT_LOAD_ID, out);
    } else if (mode == "rank_kept") {
        wire_put_u64(&out, 9);
        wire_put_u32(&out, 1);
        wire_put_u64(&out, 0);
        send(EVENT_RANK_KEPT, out);
    } else if (mode == "rank_check") {
        wire_put_u64(&out, 9);
        wire_put_u32(&out, 0);
        wire_put_string(&out, "fine");
        wire_put_u64(&out, 0);
        send(EVENT_RANK_CHECKED, out);
    }
    wire_writer_free(&out);
}

// Random bytes in records that look right, and then in the ring itself.
void scribble(unsigned seed)
{
    std::mt19937 random(seed);
    for (int i = 0; i < 20; i++) {
        wire_writer out = {};
        size_t n = random() % 200;
        for (size_t k = 0; k < n; k++) {
            unsigned char byte = random() % 3 == 0 ? static_cast<unsigned char>(random()) : 0;
            wire_put(&out, &byte, 1);
        }
        send(random() % 17 + 1, out);
        wire_writer_free(&out);
    }
    for (int i = 0; i < 4096; i++)
        shared.event_data[random() % CHANNEL_EVENT_BYTES] = static_cast<unsigned char>(random());
    shared.header->events.head = random();
    shared.header->commands.tail = random();
    shared.header->released = random();
    channel_wake(CHANNEL_FD_WAKE_HOST);
}

// What a worker may not do with the memory it shares; each that worked is told.
std::string tamper()
{
    std::string done;
    for (int fd : {CHANNEL_FD_MEMORY, CHANNEL_FD_RESULTS}) {
        struct stat st;
        fstat(fd, &st);
        if (ftruncate(fd, 0) == 0 || ftruncate(fd, st.st_size * 2) == 0)
            done += "resized ";
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0)
            done += "sealed ";
    }
    protocol_segment message[PROTOCOL_MAX_SEGMENTS];
    char ancillary[1024];
    iovec io = {message, sizeof(message)};
    msghdr header = {};
    header.msg_iov = &io;
    header.msg_iovlen = 1;
    header.msg_control = ancillary;
    header.msg_controllen = sizeof(ancillary);
    if (recvmsg(CHANNEL_FD_CONTROL, &header, 0) <= 0 || CMSG_FIRSTHDR(&header) == nullptr)
        return "no segment";
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(fd));
    if (pwrite(fd, "x", 1, 0) == 1)
        done += "written ";
    if (mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
        done += "mapped ";
    if (ftruncate(fd, 0) == 0)
        done += "shrunk ";
    std::string path = "/proc/self/fd/" + std::to_string(fd);
    int again = open(path.c_str(), O_RDWR);
    if (again >= 0 && pwrite(again, "x", 1, 0) == 1)
        done += "opened ";
    return done.empty() ? "nothing" : done;
}

std::string open_descriptors()
{
    std::string out;
    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            out += std::to_string(fd) + " ";
    return out;
}

} // namespace

int main()
{
    const char *how = getenv("HOSTILE");
    const std::string mode = how != nullptr ? how : "";
    if (mode.rfind("exit ", 0) == 0)
        return atoi(mode.c_str() + 5);

    libsched_error err;
    if (channel_attach(&shared, CHANNEL_FD_MEMORY, &err) < 0)
        return 1;
    ring_attach(&events, &shared.header->events, shared.event_data, CHANNEL_EVENT_BYTES);
    channel_identity &identity = shared.header->worker;

    if (mode == "magic")
        identity.magic++;
    else if (mode == "version")
        identity.abi++;
    else if (mode == "size")
        identity.header_size += 8;
    else if (mode == "epoch")
        identity.epoch++;
    else if (mode == "anonymous") {
        wire_writer out = {};
        wire_put_u32(&out, 1);
        send(EVENT_UNLOADED, out);
        wait_for_the_end();
    }
    up();

    if (mode == "head") {
        shared.header->events.head += CHANNEL_EVENT_BYTES + 8;
        channel_wake(CHANNEL_FD_WAKE_HOST);
    } else if (mode == "type") {
        send(999, wire_writer{});
    } else if (mode == "short") {
        wire_writer out = {};
        wire_put_u32(&out, 1);
        send(EVENT_STEP, out);
    } else if (mode == "long") {
        wire_writer out = {};
        wire_put_u64(&out, 1);
        send(EVENT_UNLOADED, out);
    } else if (mode == "description") {
        wire_writer out = {};
        libsched_engine_description description = {};
        description.n_inputs = 1000;
        wire_put_u32(&out, 1);
        wire_put_u32(&out, 0);
        wire_put_string(&out, nullptr);
        wire_put_u64(&out, 0);
        wire_put(&out, &description, sizeof(description));
        send(EVENT_LOADED, out);
    } else if (mode.rfind("random ", 0) == 0) {
        scribble(unsigned(atoi(mode.c_str() + 7)));
    } else if (mode == "descriptors") {
        log(open_descriptors());
    } else if (mode == "readings") {
        channel_readings &out = shared.header->readings;
        memset(static_cast<void *>(&out), 0xff, sizeof(out));
        out.version = 2;
        log("written");
    } else if (mode == "bell") {
        for (int i = 0; i < 1000; i++)
            channel_wake(CHANNEL_FD_WAKE_HOST);
        log("rung");
    } else {
        await_command();
        const uint32_t type = LIBSCHED_UINT8;
        const uint64_t end = shared.header->result_bytes;
        if (mode.rfind("rank_", 0) == 0)
            lie_about_rank(mode);
        else if (mode == "unknown_item")
            end_item(77, 0, 0, "", 0, 0, 0, 0, 0);
        else if (mode == "status")
            end_item(1, 5, 0, "", 0, 0, 0, 0, 0);
        else if (mode == "offset")
            end_item(1, 0, 1, "data", type, 1, 64, end, 64);
        else if (mode == "wrapping_offset")
            end_item(1, 0, 1, "data", type, 1, 128, UINT64_MAX - 63, 128);
        else if (mode == "output_size")
            end_item(1, 0, 1, "data", type, 1, int64_t(end) + 1, 0, end + 1);
        else if (mode == "shape")
            end_item(1, 0, 1, "data", type, 1, 100, 0, 64);
        else if (mode == "rank")
            end_item(1, 0, 1, "data", type, 9, 1, 0, 1);
        else if (mode == "datatype")
            end_item(1, 0, 1, "data", 99, 1, 64, 0, 64);
        else if (mode == "name")
            end_item(1, 0, 1, std::string(200, 'n').c_str(), type, 1, 64, 0, 64);
        else if (mode == "outputs")
            end_item(1, 0, 50, "data", type, 1, 64, 0, 64);
        else if (mode == "bytes_inside") /* its elements' lengths lie beyond it */
            memset(mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, CHANNEL_FD_RESULTS, 0), 0xFF, 64),
                end_item(1, 0, 1, "data", LIBSCHED_BYTES, 1, 1, 0, 64);
        else if (mode == "twice") {
            end_item(1, 0, 0, "", 0, 0, 0, 0, 0);
            end_item(1, 0, 0, "", 0, 0, 0, 0, 0);
        } else if (mode == "tamper") {
            log(tamper());
        } else if (mode == "flood") {
            /* Handles that were never given out, given back again and again by the host. */
            for (uint32_t i = 0; i < 3; i++)
                end_item(1 + i, 0, 1, "data", type, 1, 64, 0, 64);
        } else if (mode == "future") {
            wire_writer out = {};
            wire_put_u64(&out, 1);
            wire_put_u32(&out, 1);
            wire_put_u32(&out, 0);
            wire_put_string(&out, nullptr);
            wire_put_u64(&out, UINT64_MAX);
            wire_put_u64(&out, UINT64_MAX - 1);
            send(EVENT_STEP, out);
        }
    }
    wait_for_the_end();
}
