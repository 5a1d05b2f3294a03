// SPDX-License-Identifier: Apache-2.0
// What a client may do to a lease, and what becomes of it.
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

extern "C" {
#include "fake_libsched.h"
#include "lease.h"
}

using testing::HasSubstr;

namespace
{
class Lease : public testing::Test
{
  protected:
    void SetUp() override
    {
        libsched_options options = LIBSCHED_OPTIONS_INIT;
        ASSERT_EQ(libsched_open(&sched, &options, nullptr), 0);
        ASSERT_EQ(lease_table_init(&table, 1 << 20, 1000, &err), 0);
    }

    void TearDown() override
    {
        lease_release_all(&table, list);
        EXPECT_EQ(fake_buffers(), 0);
        lease_table_free(&table);
        libsched_close(sched);
    }

    const lease *Open(uint64_t size, uint64_t now = 0)
    {
        const lease *out = nullptr;
        rc = lease_open(&table, size, now, &out, &err);
        return out;
    }

    /* As a client does it. */
    static int OpenPath(const lease *l)
    {
        std::string path = "/proc/self/fd/" + std::to_string(l->fd);
        return open(path.c_str(), O_RDWR | O_CLOEXEC);
    }

    libsched *sched = nullptr;
    lease_table table = {};
    libsched_error err = {};
    libsched_buffer *buffer = nullptr;
    uint32_t list = REQUEST_NONE;
    int rc = 0;
};

TEST_F(Lease, WhatIsWrittenIsWhatTheBufferHolds)
{
    const lease *l = Open(100000);
    ASSERT_NE(l, nullptr);
    uint32_t id = l->id;
    int fd = OpenPath(l);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(pwrite(fd, "hello", 5, 64), 5);
    close(fd);
    ASSERT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), 0) << err.message;
    EXPECT_EQ(libsched_buffer_size(buffer), 100000u);
    EXPECT_EQ(memcmp((char *)libsched_buffer_data(buffer) + 64, "hello", 5), 0);
    libsched_buffer_release(buffer);
    EXPECT_EQ(table.bytes, 100000u); // it counts until the request ends
    lease_release_all(&table, list);
    list = REQUEST_NONE;
    EXPECT_EQ(table.bytes, 0u);
    EXPECT_EQ(table.count, 0u);
}

TEST_F(Lease, ItsSizeCannotBeChanged)
{
    const lease *l = Open(8192);
    int fd = OpenPath(l);
    EXPECT_EQ(ftruncate(fd, 4096), -1);
    EXPECT_EQ(ftruncate(fd, 16384), -1);
    close(fd);
}

TEST_F(Lease, ItCannotBeWrittenAfterItsCommit)
{
    const lease *l = Open(8192);
    int fd = OpenPath(l);
    ASSERT_EQ(lease_commit(&table, sched, l->id, &list, &buffer, &err), 0);
    EXPECT_EQ(pwrite(fd, "x", 1, 0), -1);
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    close(fd);
    libsched_buffer_release(buffer);
}

TEST_F(Lease, MappedForWritingItIsRefused)
{
    const lease *l = Open(8192);
    uint32_t id = l->id;
    int fd = OpenPath(l);
    void *map = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ASSERT_NE(map, MAP_FAILED);
    EXPECT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("mapped for writing"));
    memset(map, 1, 8192); // harms nobody
    munmap(map, 8192);
    close(fd);
    EXPECT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), LIBSCHED_ENOENT);
    EXPECT_EQ(table.count, 0u);
}

TEST_F(Lease, AClientThatSealsTheSealsIsRefused)
{
    const lease *l = Open(8192);
    int fd = OpenPath(l);
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL), 0);
    EXPECT_EQ(lease_commit(&table, sched, l->id, &list, &buffer, &err), LIBSCHED_EINVAL);
    close(fd);
}

TEST_F(Lease, AClientThatSealsItItselfIsServed)
{
    const lease *l = Open(8192);
    int fd = OpenPath(l);
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL), 0);
    EXPECT_EQ(lease_commit(&table, sched, l->id, &list, &buffer, &err), 0);
    libsched_buffer_release(buffer);
    close(fd);
}

TEST_F(Lease, CommittedItIsNobodyElses)
{
    const lease *l = Open(8192);
    uint32_t id = l->id;
    ASSERT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), 0);
    libsched_buffer_release(buffer);
    EXPECT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), LIBSCHED_ENOENT);
    lease_give_back(&table, id); // ignored
    EXPECT_EQ(table.count, 1u);
    lease_expire(&table, UINT64_MAX - 1);
    EXPECT_EQ(table.count, 1u);
}

TEST_F(Lease, PiecesAreCheckedAndTheirFaultIsToldAtTheCommit)
{
    const lease *l = Open(100);
    uint32_t id = l->id;
    lease_write(&table, id, 0, "abc", 3);
    lease_write(&table, id, 98, "abc", 3);
    lease_write(&table, id + 1, 0, "abc", 3); // none: ignored
    EXPECT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("3 bytes written at 98, it has 100"));

    id = Open(100)->id;
    lease_write(&table, id, UINT64_MAX, "abc", 3);
    EXPECT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), LIBSCHED_EINVAL);

    id = Open(100)->id;
    lease_write(&table, id, 97, "abc", 3);
    ASSERT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), 0);
    EXPECT_EQ(memcmp((char *)libsched_buffer_data(buffer) + 97, "abc", 3), 0);
    libsched_buffer_release(buffer);
}

TEST_F(Lease, APieceHasALimit)
{
    std::string piece(LEASE_MAX_PIECE + 1, 'x');
    uint32_t id = Open(1 << 20)->id;
    lease_write(&table, id, 0, piece.data(), LEASE_MAX_PIECE);
    lease_write(&table, id, 0, piece.data(), LEASE_MAX_PIECE + 1);
    lease_refuse_piece(&table, id, "the first fault is the one that is told");
    EXPECT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("a piece of 262145 bytes, at most 262144"));

    id = Open(10)->id;
    lease_refuse_piece(&table, id, "no piece");
    EXPECT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("no piece"));
    lease_refuse_piece(&table, id, "there is none"); // ignored
}

TEST_F(Lease, KeptForARequestItNeitherExpiresNorIsAnybodyElses)
{
    uint32_t id = Open(10, 0)->id, other = Open(10, 500)->id, others = REQUEST_NONE;
    lease_keep(&table, id, &list);
    lease_keep(&table, id, &list);    // named twice by the request,
    lease_keep(&table, id, &others);  // and by another
    lease_keep(&table, 12345, &list); // there is none
    EXPECT_EQ(others, REQUEST_NONE);
    EXPECT_EQ(lease_expire(&table, 1200), 1500u);
    lease_give_back(&table, id); // ignored
    EXPECT_EQ(lease_commit(&table, sched, id, &others, &buffer, &err), LIBSCHED_ENOENT);
    EXPECT_EQ(table.count, 2u);

    lease_let_go(&table, list);
    list = REQUEST_NONE;
    ASSERT_EQ(lease_commit(&table, sched, id, &list, &buffer, &err), 0) << err.message;
    libsched_buffer_release(buffer);
    lease_release_all(&table, list);

    list = REQUEST_NONE;
    lease_keep(&table, other, &list);
    lease_release_all(&table, list); // the request ended while it waited
    list = REQUEST_NONE;
    EXPECT_EQ(table.count, 0u);
    EXPECT_EQ(table.bytes, 0u);

    id = Open(10, 0)->id;
    lease_keep(&table, id, &list);
    lease_expire(&table, 2000);
    lease_let_go(&table, list); // and it was not committed
    list = REQUEST_NONE;
    EXPECT_EQ(lease_expire(&table, 2000), UINT64_MAX);
    EXPECT_EQ(table.count, 0u);
}

TEST_F(Lease, BytesAndNumberHaveLimits)
{
    EXPECT_EQ(Open(0), nullptr);
    EXPECT_EQ(rc, LIBSCHED_EINVAL);
    EXPECT_EQ(Open((1 << 20) + 1), nullptr);
    EXPECT_EQ(rc, LIBSCHED_ETOOBIG);
    ASSERT_NE(Open(1 << 19), nullptr);
    const lease *second = Open(1 << 19);
    ASSERT_NE(second, nullptr);
    EXPECT_EQ(Open(1), nullptr);
    EXPECT_EQ(rc, LIBSCHED_EBUSY);
    lease_give_back(&table, second->id);
    EXPECT_NE(Open(1), nullptr);
}

TEST_F(Lease, ExpiresInTime)
{
    uint32_t first = Open(10, 0)->id;
    uint32_t second = Open(10, 500)->id;
    EXPECT_EQ(lease_expire(&table, 999), 1000u);
    EXPECT_EQ(table.count, 2u);
    EXPECT_EQ(lease_expire(&table, 1000), 1500u);
    EXPECT_EQ(lease_commit(&table, sched, first, &list, &buffer, &err), LIBSCHED_ENOENT);
    EXPECT_THAT(err.message, HasSubstr("expired"));
    EXPECT_EQ(lease_commit(&table, sched, second, &list, &buffer, &err), 0);
    libsched_buffer_release(buffer);
    EXPECT_EQ(lease_expire(&table, 5000), UINT64_MAX);
}

TEST_F(Lease, AStalePathIsNotTheNextLeases)
{
    const lease *l = Open(10);
    int number = l->fd;
    lease_give_back(&table, l->id);
    for (int i = 0; i < 100; i++) {
        const lease *next = Open(10);
        ASSERT_NE(next, nullptr);
        EXPECT_NE(next->fd, number);
        lease_give_back(&table, next->id);
    }
}

TEST_F(Lease, NumbersInTurnComeRoundAgain)
{
    for (int i = 0; i < 10000; i++) {
        const lease *next = Open(10);
        ASSERT_NE(next, nullptr) << err.message;
        EXPECT_GE(next->fd, table.fd_first);
        EXPECT_LE(next->fd, table.fd_last);
        lease_give_back(&table, next->id);
    }
}

TEST_F(Lease, NoneWhereTheyAreTurnedOff)
{
    lease_table_free(&table);
    ASSERT_EQ(lease_table_init(&table, 0, 1000, &err), 0);
    EXPECT_EQ(Open(10), nullptr);
    EXPECT_EQ(rc, LIBSCHED_ENOTSUP);
    EXPECT_EQ(lease_commit(&table, sched, 1024, &list, &buffer, &err), LIBSCHED_ENOENT);
    lease_write(&table, 1024, 0, "x", 1);
    EXPECT_EQ(lease_expire(&table, 5000), UINT64_MAX);
}
} // namespace
