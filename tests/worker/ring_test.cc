// SPDX-License-Identifier: Apache-2.0
// The rings: what is written comes out, whole and in order, and a damaged one is noticed.
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "worker/ring.h"

namespace
{

struct Ring {
    explicit Ring(uint64_t size) : data(size)
    {
        memset(&control, 0, sizeof(control));
        ring_attach(&producer, &control, data.data(), size);
        ring_attach(&consumer, &control, data.data(), size);
    }

    bool write(uint32_t type, const std::string &payload)
    {
        return ring_write(&producer, type, payload.data(), uint32_t(payload.size()));
    }

    std::string take(uint32_t expected_type)
    {
        ring_record record;
        EXPECT_EQ(ring_peek(&consumer, &record), RING_RECORD);
        EXPECT_EQ(record.type, expected_type);
        std::string payload(record.length, 0);
        ring_take(&consumer, &record, payload.data());
        return payload;
    }

    bool empty()
    {
        ring_record record;
        return ring_peek(&consumer, &record) == RING_EMPTY;
    }

    ring_control control;
    std::vector<unsigned char> data;
    ring producer, consumer;
};

TEST(Ring, GivesBackWhatWasWritten)
{
    Ring r(4096);
    EXPECT_TRUE(r.empty());
    EXPECT_TRUE(r.write(1, "first"));
    EXPECT_TRUE(r.write(2, ""));
    EXPECT_TRUE(r.write(3, std::string(1000, 'z')));
    EXPECT_EQ(r.take(1), "first");
    EXPECT_EQ(r.take(2), "");
    EXPECT_EQ(r.take(3), std::string(1000, 'z'));
    EXPECT_TRUE(r.empty());
}

TEST(Ring, WrapsAtEveryOffset)
{
    Ring r(256);
    for (int i = 0; i < 2000; i++) {
        std::string payload(size_t(i * 7 % 120), char('a' + i % 26));
        ASSERT_TRUE(r.write(uint32_t(i % 100 + 1), payload)) << i;
        ASSERT_EQ(r.take(uint32_t(i % 100 + 1)), payload) << i;
    }
}

TEST(Ring, RefusesWhatDoesNotFitAndLeavesTheRestWhole)
{
    Ring r(256);
    int written = 0;
    while (r.write(1, std::string(40, 'x')))
        written++;
    EXPECT_EQ(written, 5);
    for (int i = 0; i < written; i++)
        EXPECT_EQ(r.take(1), std::string(40, 'x'));
    EXPECT_TRUE(r.empty());
    EXPECT_TRUE(r.write(1, "again"));
    EXPECT_EQ(r.take(1), "again");
}

TEST(Ring, TakesARecordAsLargeAsItselfWhereverItStands)
{
    for (uint64_t before : {0, 1, 100, 65536, 100000, 200000}) {
        Ring r(256 * 1024);
        ASSERT_TRUE(r.write(1, std::string(before, 'b')));
        r.take(1);
        std::string large(ring_max_payload(&r.producer), 'l');
        ASSERT_TRUE(r.write(2, large)) << before;
        EXPECT_EQ(r.take(2), large);
        EXPECT_FALSE(r.write(3, large + "m"));
    }
}

TEST(Ring, StaysAtItsBeginningWhenItIsSeldomFull)
{
    Ring r(1 << 20);
    std::fill(r.data.begin(), r.data.end(), 0xAA);
    for (int i = 0; i < 100000; i++) {
        ASSERT_TRUE(r.write(1, std::string(100, 'x')));
        ASSERT_EQ(r.take(1).size(), 100u);
    }
    /* Ten megabytes went through; the memory behind the first pages was never touched. */
    size_t touched = 0;
    for (size_t i = 0; i < r.data.size(); i++)
        if (r.data[i] != 0xAA)
            touched = i;
    EXPECT_LT(touched, 80u * 1024);
}

TEST(Ring, GoesBackWithoutLosingRoom)
{
    Ring r(1 << 20);
    ASSERT_TRUE(r.write(1, std::string(100000, 'x')));
    r.take(1);
    /* The consumer is busy elsewhere, and all of the ring is free. */
    ASSERT_TRUE(r.write(2, std::string(100, 'y')));
    ASSERT_TRUE(r.write(3, std::string(1000000, 'z')));
    EXPECT_EQ(r.take(2), std::string(100, 'y'));
    EXPECT_EQ(r.take(3), std::string(1000000, 'z'));
}

TEST(Ring, NoticesWhatNoProducerWrites)
{
    ring_record record;
    {
        Ring r(4096);
        r.control.head = 4097; /* more than there is room for */
        EXPECT_EQ(ring_peek(&r.consumer, &record), RING_BROKEN);
    }
    {
        Ring r(4096);
        r.control.head = 4; /* half a header */
        EXPECT_EQ(ring_peek(&r.consumer, &record), RING_BROKEN);
    }
    {
        Ring r(4096);
        r.control.head = 16; /* a header of type 0 */
        EXPECT_EQ(ring_peek(&r.consumer, &record), RING_BROKEN);
    }
    {
        Ring r(4096);
        r.write(1, "some");
        ring_record lie = {4000, 1}; /* longer than what was published */
        memcpy(r.data.data(), &lie, sizeof(lie));
        EXPECT_EQ(ring_peek(&r.consumer, &record), RING_BROKEN);
    }
    {
        Ring r(4096);
        r.write(1, "some");
        ring_record lie = {UINT32_MAX, 1};
        memcpy(r.data.data(), &lie, sizeof(lie));
        EXPECT_EQ(ring_peek(&r.consumer, &record), RING_BROKEN);
    }
}

TEST(Ring, AConsumerThatCountsWrongGetsNothing)
{
    Ring r(4096);
    r.control.tail = 1;
    while (r.write(1, std::string(500, 'x')))
        ;
    r.control.tail = UINT64_MAX / 2;
    EXPECT_FALSE(r.write(1, "x"));
}

TEST(Ring, WakesASleeperOnce)
{
    Ring r(4096);
    EXPECT_FALSE(ring_must_wake_consumer(&r.producer));
    EXPECT_FALSE(ring_sleep(&r.consumer));
    EXPECT_TRUE(ring_sleeps(&r.consumer));
    r.write(1, "wake");
    EXPECT_TRUE(ring_must_wake_consumer(&r.producer));
    EXPECT_FALSE(ring_must_wake_consumer(&r.producer));
    EXPECT_TRUE(ring_awake(&r.consumer)) << "the flag was taken: a wake-up is owed";
    EXPECT_TRUE(ring_sleep(&r.consumer)) << "there is something to take";
    EXPECT_FALSE(ring_awake(&r.consumer));
}

TEST(Ring, CarriesRecordsBetweenThreads)
{
    Ring r(8192);
    const int count = 200000;
    std::thread producer([&] {
        std::minstd_rand random(1);
        std::string payload;
        for (int i = 0; i < count; i++) {
            payload.assign(random() % 300, char(i));
            while (!ring_write(&r.producer, uint32_t(i % 1000 + 1), payload.data(),
                               uint32_t(payload.size())))
                std::this_thread::yield();
        }
    });
    std::minstd_rand random(1);
    std::string payload;
    int wrong = 0;
    for (int i = 0; i < count; i++) {
        ring_record record;
        enum ring_peek peek;
        while ((peek = ::ring_peek(&r.consumer, &record)) == RING_EMPTY)
            std::this_thread::yield();
        ASSERT_EQ(peek, RING_RECORD);
        payload.assign(record.length, 0);
        ring_take(&r.consumer, &record, payload.data());
        wrong += record.type != uint32_t(i % 1000 + 1);
        wrong += payload != std::string(random() % 300, char(i));
    }
    producer.join();
    EXPECT_EQ(wrong, 0);
}

} // namespace
