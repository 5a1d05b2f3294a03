// SPDX-License-Identifier: Apache-2.0
// Segments: nobody but their maker writes them, nobody makes them smaller.
#include <cerrno>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "worker/segment.h"

namespace
{

using testing::HasSubstr;

TEST(Segment, IsWrittenByItsMakerOnly)
{
    segment *s;
    libsched_error err;
    ASSERT_EQ(segment_create(&s, "test", 1 << 20, &err), 0) << err.message;
    memset(segment_data(s), 7, 1 << 20);
    int fd = segment_fd(s);
    EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    EXPECT_LT(pwrite(fd, "x", 1, 0), 0);
    EXPECT_LT(ftruncate(fd, 4096), 0);
    EXPECT_LT(ftruncate(fd, 2 << 20), 0);
    void *read_only = mmap(nullptr, 1 << 20, PROT_READ, MAP_SHARED, fd, 0);
    ASSERT_NE(read_only, MAP_FAILED);
    EXPECT_EQ(memcmp(read_only, segment_data(s), 1 << 20), 0);
    munmap(read_only, 1 << 20);
    segment_free(s);
}

TEST(Segment, TakesMemoryAsItIsUsed)
{
    segment *s;
    libsched_error err;
    ASSERT_EQ(segment_create(&s, "test", UINT64_C(1) << 36, &err), 0) << err.message;
    static_cast<char *>(segment_data(s))[UINT64_C(1) << 35] = 1;
    segment_free(s);
}

TEST(Segment, HasAnIdOfItsOwn)
{
    segment *a, *b;
    libsched_error err;
    ASSERT_EQ(segment_create(&a, "a", 4096, &err), 0);
    ASSERT_EQ(segment_create(&b, "b", 4096, &err), 0);
    EXPECT_NE(segment_id(a), segment_id(b));
    segment_free(a);
    segment_free(b);
}

TEST(Segment, OfNothingIsRefused)
{
    segment *s;
    libsched_error err;
    EXPECT_EQ(segment_create(&s, "test", 0, &err), LIBSCHED_EINVAL);
}

class Import : public testing::Test
{
  protected:
    void SetUp() override
    {
        fd = memfd_create("theirs", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        ASSERT_GE(fd, 0);
        ASSERT_EQ(ftruncate(fd, 8192), 0);
        ASSERT_EQ(pwrite(fd, "theirs", 6, 0), 6);
    }
    void TearDown() override
    {
        close(fd);
    }
    int import(uint64_t size)
    {
        segment *s = nullptr;
        int status = segment_import(&s, fd, size, &err);
        if (status == 0) {
            EXPECT_EQ(memcmp(segment_data(s), "theirs", 6), 0);
            EXPECT_EQ(segment_size(s), size);
            segment_free(s);
        }
        return status;
    }
    int fd = -1;
    libsched_error err{};
};

TEST_F(Import, NeedsBothSeals)
{
    EXPECT_EQ(import(8192), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("F_SEAL_SHRINK"));
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    EXPECT_EQ(import(8192), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("F_SEAL_WRITE"));
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    EXPECT_EQ(import(8192), 0) << err.message;
    EXPECT_EQ(import(100), 0) << err.message;
}

TEST_F(Import, RefusesASizeItDoesNotHave)
{
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
    EXPECT_EQ(import(8193), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("8192"));
    EXPECT_EQ(import(0), LIBSCHED_EINVAL);
}

/* A page of it that was never written may not be there when it is read. */
TEST(ImportOf, HugePagesIsRefused)
{
    int fd = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (fd < 0)
        GTEST_SKIP() << "this kernel has no huge pages: " << strerror(errno);
    ASSERT_EQ(ftruncate(fd, 64 << 20), 0);
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
    segment *s;
    libsched_error err;
    EXPECT_EQ(segment_import(&s, fd, 4096, &err), LIBSCHED_EINVAL);
    EXPECT_THAT(err.message, HasSubstr("huge pages"));
    close(fd);
}

TEST(ImportOf, WhatIsNoMemfdIsRefused)
{
    segment *s;
    libsched_error err;
    int fds[2];
    ASSERT_EQ(pipe(fds), 0);
    EXPECT_EQ(segment_import(&s, fds[0], 100, &err), LIBSCHED_EINVAL);
    EXPECT_EQ(segment_import(&s, -1, 100, &err), LIBSCHED_EINVAL);
    close(fds[0]);
    close(fds[1]);
}

} // namespace
