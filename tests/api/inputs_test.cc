// SPDX-License-Identifier: Apache-2.0
// What a request brings: tensors and parameters that are not acceptable, buffers, a full arena.
#include <cmath>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scheduler.h"

using namespace api_test;

class Inputs : public ApiTest
{
  protected:
    // Refused, in words that name `what`.
    static void refused(Scheduler &s, const libsched_request *request, int status,
                        const std::string &what)
    {
        libsched_error err{};
        uint64_t id;
        EXPECT_EQ(libsched_submit(s.get(), request, &id, &err), status) << err.message;
        EXPECT_NE(std::string(err.message).find(what), std::string::npos) << err.message;
    }
};

TEST_P(Inputs, ThatAreWrongAreNamed)
{
    Scheduler s(GetParam());
    s.load("m");
    Request request("m");
    libsched_request *raw = request.get();

    request.input.name = "dta";
    refused(s, raw, LIBSCHED_EINVAL, "\"dta\"");
    request.get();
    request.input.datatype = LIBSCHED_FP32;
    request.input.shape[0] = 4;
    refused(s, raw, LIBSCHED_EINVAL, "\"data\" has datatype FP32, the model takes UINT8");
    request.get();
    request.input.datatype = 99;
    refused(s, raw, LIBSCHED_EINVAL, "99");
    request.get();
    request.input.rank = 2;
    request.input.shape[1] = 1;
    refused(s, raw, LIBSCHED_EINVAL, "\"data\" has shape [16, 1], the model takes [-1]");
    request.get();
    request.input.rank = 99;
    refused(s, raw, LIBSCHED_EINVAL, "99");
    request.get();
    request.input.size = 15;
    refused(s, raw, LIBSCHED_EINVAL, "data");
    request.get();
    request.input.shape[0] = -1;
    refused(s, raw, LIBSCHED_EINVAL, "data");
    request.get();
    request.input.data = nullptr;
    refused(s, raw, LIBSCHED_EINVAL, "data");
    request.get();
    request.input.name = nullptr;
    refused(s, raw, LIBSCHED_EINVAL, "name");
    request.get();
    raw->n_inputs = 0;
    refused(s, raw, LIBSCHED_EINVAL, "\"data\" is missing");
    request.get();
    raw->n_inputs = LIBSCHED_MAX_TENSORS + 1;
    refused(s, raw, LIBSCHED_EINVAL, "17");
    request.get();
    libsched_tensor twice[2] = {request.input, request.input};
    raw->inputs = twice;
    raw->n_inputs = 2;
    refused(s, raw, LIBSCHED_EINVAL, "twice");
    twice[1].name = "more";
    refused(s, raw, LIBSCHED_EINVAL, "no input is called \"more\", the model takes \"data\"");

    EXPECT_EQ(s.model("m").counters.refused, 13u);
    EXPECT_EQ(s.stats().arena_used, 0u);
    Request good("m");
    EXPECT_EQ(s.infer(good).status(), LIBSCHED_OK);
}

TEST_P(Inputs, HaveParametersThatAreChecked)
{
    Scheduler s(GetParam());
    s.load("m");
    {
        Request request("m");
        request.parameters.real("units", NAN);
        refused(s, request.get(), LIBSCHED_EINVAL, "\"units\"");
    }
    {
        Request request("m");
        request.parameters.string("fault", std::string(20000, 'x'));
        refused(s, request.get(), LIBSCHED_EINVAL, "\"fault\"");
    }
    {
        Request request("m");
        request.parameters.string("fault", std::string(8192, 'x'));
        refused(s, request.get(), LIBSCHED_ETOOBIG, "8199 bytes");
    }
    {
        Request request("m");
        request.parameters.integer("units", 1).integer("units", 2);
        refused(s, request.get(), LIBSCHED_EINVAL, "\"units\" is given twice");
    }
    {
        Request request("m");
        std::vector<std::string> names;
        for (int i = 0; i < LIBSCHED_MAX_PARAMETERS + 1; i++)
            names.push_back("p" + std::to_string(i));
        for (const std::string &name : names)
            request.parameters.integer(name.c_str(), 1);
        refused(s, request.get(), LIBSCHED_EINVAL, "33 parameters");
    }
    {
        Request request("m");
        request.raw.priority = LIBSCHED_PRIORITIES;
        refused(s, request.get(), LIBSCHED_EINVAL, "priority");
    }
    {
        Request request("m");
        request.raw.flags = 0x80;
        refused(s, request.get(), LIBSCHED_EINVAL, "flags");
    }
    {
        Request request("m");
        std::string client(64, 'c');
        request.raw.client = client.c_str();
        refused(s, request.get(), LIBSCHED_EINVAL, "client");
    }
}

TEST_P(Inputs, InBuffersAreNotCopied)
{
    Scheduler s(GetParam());
    s.load("m");
    libsched_buffer *buffer;
    ASSERT_EQ(libsched_buffer_alloc(s.get(), 1000, &buffer, nullptr), LIBSCHED_OK);
    EXPECT_EQ(libsched_buffer_size(buffer), 1000u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(libsched_buffer_data(buffer)) % 64, 0u);
    uint64_t used = s.stats().arena_used;
    Request request("m", 1000, 77);
    memcpy(libsched_buffer_data(buffer), request.data.data(), 1000);
    request.get();
    request.input.data = libsched_buffer_data(buffer);
    request.raw.buffers = &buffer;
    uint64_t id;
    ASSERT_EQ(libsched_submit(s.get(), &request.raw, &id, nullptr), LIBSCHED_OK);
    EXPECT_EQ(s.stats().arena_used, used);
    libsched_buffer_release(buffer); // the request holds it
    const Done &done = s.end_of(id);
    EXPECT_EQ(done.outputs.at("checksum").scalar<uint64_t>(), checksum(request.data));
    EXPECT_EQ(s.stats().arena_used, 0u);
}

TEST_P(Inputs, ThatLieOutsideTheirBufferAreRefused)
{
    Scheduler s(GetParam());
    s.load("m");
    libsched_buffer *buffer;
    ASSERT_EQ(libsched_buffer_alloc(s.get(), 100, &buffer, nullptr), LIBSCHED_OK);
    Request request("m", 16);
    request.get();
    request.raw.buffers = &buffer;
    refused(s, &request.raw, LIBSCHED_EINVAL, "\"data\" does not lie in the buffer");
    request.input.data = static_cast<uint8_t *>(libsched_buffer_data(buffer)) + 90;
    refused(s, &request.raw, LIBSCHED_EINVAL, "\"data\" does not lie in the buffer");
    libsched_buffer_release(buffer);
}

TEST_P(Inputs, AnywhereInABufferAreTaken)
{
    Scheduler s(GetParam());
    s.load("m");
    libsched_buffer *buffer;
    ASSERT_EQ(libsched_buffer_alloc(s.get(), 200, &buffer, nullptr), LIBSCHED_OK);
    uint8_t *data = static_cast<uint8_t *>(libsched_buffer_data(buffer));
    for (int i = 0; i < 200; i++)
        data[i] = uint8_t(i * 7);
    for (size_t offset : {0, 1, 64, 100, 199}) {
        Request request("m");
        request.data.assign(data + offset, data + 200);
        request.get();
        request.input.data = data + offset;
        request.raw.buffers = &buffer;
        uint64_t id;
        ASSERT_EQ(libsched_submit(s.get(), &request.raw, &id, nullptr), LIBSCHED_OK);
        EXPECT_EQ(s.end_of(id).outputs.at("checksum").scalar<uint64_t>(), checksum(request.data));
    }
    libsched_buffer_release(buffer);
    EXPECT_EQ(s.stats().arena_used, 0u);
}

TEST_P(Inputs, ComeFromImportedMemory)
{
    Scheduler s(GetParam());
    s.load("m");
    constexpr size_t size = 1 << 20;
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(ftruncate(fd, size), 0);
    std::vector<uint8_t> bytes(size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = uint8_t(i * 31);
    ASSERT_EQ(pwrite(fd, bytes.data(), size, 0), ssize_t(size));

    libsched_buffer *buffer;
    libsched_error err{};
    EXPECT_EQ(libsched_buffer_import(s.get(), fd, size, &buffer, &err), LIBSCHED_EINVAL);
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
    EXPECT_EQ(libsched_buffer_import(s.get(), fd, size + 1, &buffer, &err), LIBSCHED_EINVAL);
    ASSERT_EQ(libsched_buffer_import(s.get(), fd, size, &buffer, &err), LIBSCHED_OK) << err.message;
    close(fd);

    Request request("m");
    request.data = bytes;
    request.get();
    request.input.data = libsched_buffer_data(buffer);
    request.raw.buffers = &buffer;
    uint64_t id;
    ASSERT_EQ(libsched_submit(s.get(), &request.raw, &id, nullptr), LIBSCHED_OK);
    EXPECT_EQ(s.stats().arena_used, 0u);
    libsched_buffer_release(buffer);
    EXPECT_EQ(s.end_of(id).outputs.at("checksum").scalar<uint64_t>(), checksum(bytes));
}

TEST_P(Inputs, InImportedMemoryStayAsTheyWere)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 50000));
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(ftruncate(fd, 8192), 0);
    ASSERT_EQ(pwrite(fd, "before", 6, 0), 6);
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
    libsched_buffer *buffer;
    libsched_error err{};
    ASSERT_EQ(libsched_buffer_import(s.get(), fd, 8192, &buffer, &err), LIBSCHED_OK) << err.message;

    Request request("m");
    request.data.assign(8192, 0);
    memcpy(request.data.data(), "before", 6);
    request.get();
    request.input.data = libsched_buffer_data(buffer);
    request.raw.buffers = &buffer;
    uint64_t id;
    ASSERT_EQ(libsched_submit(s.get(), &request.raw, &id, nullptr), LIBSCHED_OK);
    libsched_buffer_release(buffer);
    s.run_until([&] { return s.stats().running == 1; });
    // Its owner can neither write, nor cut, nor empty it; growing it harms nobody.
    EXPECT_LT(pwrite(fd, "after!", 6, 0), 0);
    EXPECT_LT(ftruncate(fd, 0), 0);
    EXPECT_LT(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
    EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    EXPECT_EQ(ftruncate(fd, 65536), 0);
    close(fd);
    EXPECT_EQ(s.end_of(id).outputs.at("checksum").scalar<uint64_t>(), checksum(request.data));
}

TEST_P(Inputs, AreNotImportedFromWhatCouldBeTakenAway)
{
    Scheduler s(GetParam());
    libsched_buffer *buffer;
    libsched_error err{};
    auto refused_import = [&](int fd, uint64_t size, const std::string &why) {
        EXPECT_EQ(libsched_buffer_import(s.get(), fd, size, &buffer, &err), LIBSCHED_EINVAL) << why;
        EXPECT_NE(std::string(err.message).find(why), std::string::npos) << err.message;
        EXPECT_EQ(buffer, nullptr);
    };
    refused_import(-1, 100, "-1");
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    refused_import(null, 100, "not a memfd");
    close(null);
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ASSERT_EQ(ftruncate(fd, 4096), 0);
    refused_import(fd, 4096, "F_SEAL_SHRINK");
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    refused_import(fd, 4096, "F_SEAL_WRITE");
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    refused_import(fd, 4097, "4096 bytes");
    refused_import(fd, UINT64_MAX, "4096 bytes");
    refused_import(fd, 0, "0 were announced");
    close(fd);
}

TEST_P(Inputs, AreCountedByWhoHoldsTheirBuffer)
{
    Scheduler s(GetParam());
    libsched_buffer *buffer;
    ASSERT_EQ(libsched_buffer_alloc(s.get(), 100, &buffer, nullptr), LIBSCHED_OK);
    libsched_buffer_retain(buffer);
    libsched_buffer_release(buffer);
    EXPECT_GT(s.stats().arena_used, 0u);
    libsched_buffer_release(buffer);
    EXPECT_EQ(s.stats().arena_used, 0u);
    libsched_buffer_release(nullptr);
}

TEST_P(Inputs, FindTheArenaFull)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.arena_bytes = 1 << 20; });
    s.load("m", Parameters().integer("a_us", 30000).integer("max_batch_requests", 1));
    Request large("m", 400 << 10), impossible("m", 2 << 20);
    uint64_t first = s.submit(large), second = s.submit(large);
    libsched_error err{};
    uint64_t id = 0;
    EXPECT_EQ(libsched_submit(s.get(), large.get(), &id, &err), LIBSCHED_EBUSY) << err.message;
    EXPECT_GT(id, 0u); // when to come back
    EXPECT_EQ(libsched_submit(s.get(), impossible.get(), &id, &err), LIBSCHED_ETOOBIG);
    libsched_buffer *buffer;
    EXPECT_EQ(libsched_buffer_alloc(s.get(), 400 << 10, &buffer, &err), LIBSCHED_EBUSY);
    EXPECT_EQ(libsched_buffer_alloc(s.get(), 2 << 20, &buffer, &err), LIBSCHED_ETOOBIG);
    EXPECT_EQ(s.end_of(first).status(), LIBSCHED_OK);
    EXPECT_EQ(s.end_of(second).status(), LIBSCHED_OK);
    EXPECT_EQ(s.infer(large).status(), LIBSCHED_OK);
}

TEST_P(Inputs, AreTakenUpToTheLimitOfRequests)
{
    Scheduler s(GetParam(), [](libsched_options &o) { o.max_requests = 4; });
    s.load("m", Parameters().integer("a_us", 10000));
    Request request("m");
    for (int i = 0; i < 4; i++)
        s.submit(request);
    libsched_error err{};
    uint64_t id = 0;
    EXPECT_EQ(libsched_submit(s.get(), request.get(), &id, &err), LIBSCHED_EBUSY) << err.message;
    EXPECT_GT(id, 0u);
    s.run_until([&] { return s.n_ends == 4; });
    EXPECT_EQ(s.infer(request).status(), LIBSCHED_OK);
}

API_TESTS_FOR_BOTH(Inputs);
