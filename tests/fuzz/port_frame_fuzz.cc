/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes are a frame whose requests are each answered or waiting, or a bad frame of which
 * nothing was carried out; what is answered is msgpack. The scheduler behind the port is made up.
 */
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include <msgpack.h>

extern "C" {
#include "fake_libsched.h"
#include "log.h"
#include "port.h"
}

#include "fuzz/fuzz.h"

namespace
{

/* Reads back what the port wrote, and counts the responses in it. */
size_t responses(int fd)
{
    off_t size = lseek(fd, 0, SEEK_END);
    std::string bytes((size_t)size, '\0');
    FUZZ_CHECK(pread(fd, bytes.data(), bytes.size(), 0) == (ssize_t)bytes.size());

    size_t n = 0;
    msgpack_zone zone;
    msgpack_zone_init(&zone, 4096);
    for (size_t at = 0; at < bytes.size();) {
        FUZZ_CHECK(bytes.size() - at >= 4);
        auto *h = reinterpret_cast<const uint8_t *>(bytes.data()) + at;
        size_t end = at + 4 + ((size_t)h[0] << 24 | (size_t)h[1] << 16 | (size_t)h[2] << 8 | h[3]);
        FUZZ_CHECK(end <= bytes.size());
        for (at += 4; at < end;) {
            msgpack_object object;
            FUZZ_CHECK(msgpack_unpack(bytes.data(), end, &at, &zone, &object) > 0);
            FUZZ_CHECK(object.type == MSGPACK_OBJECT_ARRAY);
            n += object.via.array.size == 4;
        }
    }
    msgpack_zone_destroy(&zone);
    return n;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static port_options options;
    static struct port port;
    if (options.max_frame_bytes == 0) {
        char name[] = "sched-port", *argv[] = {name, nullptr};
        FUZZ_CHECK(options_parse(&options, 1, argv) == OPTIONS_RUN);
        port_log_set_level(0);
    }

    int out = memfd_create("out", MFD_CLOEXEC), in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    FUZZ_CHECK(out >= 0 && in >= 0);
    FUZZ_CHECK(port_open(&port, &options, in, out, nullptr) == LIBSCHED_OK);
    struct frame frame = {0, data, size, nullptr};
    for (bool done = dispatch_frame(&port, &frame); !done; done = dispatch_rest(&port))
        while (frame_writer_flush(&port.writer) > 0)
            ;

    size_t requests = 0;
    if (port.counters.bad_frames == 0)
        for (size_t i = 0; i < port.messages.n; i++)
            requests += port.messages.items[i].kind == MESSAGE_REQUEST;
    while (libsched_process(port.sched, 0) > 0)
        completions_reap(&port);
    timers_run(&port);
    while (frame_writer_flush(&port.writer) > 0)
        ;
    FUZZ_CHECK(!port.writer.failed);
    FUZZ_CHECK(port.requests.count == port.in_flight + port.held.n + port.waiters.n);
    FUZZ_CHECK(responses(out) + port.requests.count == requests);

    port_close(&port);
    FUZZ_CHECK(fake_buffers() == 0 && fake_completions() == 0);
    close(in);
    close(out);
    return 0;
}
