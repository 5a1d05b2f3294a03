// SPDX-License-Identifier: Apache-2.0
// What a worker keeps account with: the allocator of results, and the maps from ids.
#include <algorithm>
#include <map>
#include <random>
#include <unordered_map>
#include <vector>

#include <gtest/gtest.h>

#include "worker/heap.h"
#include "worker/id_map.h"

namespace
{

struct Heap {
    explicit Heap(uint64_t size)
    {
        EXPECT_TRUE(heap_init(&raw, size));
    }
    ~Heap()
    {
        heap_destroy(&raw);
    }
    heap raw{};
};

TEST(Heap, GivesAlignedBlocksThatDoNotOverlap)
{
    Heap h(1 << 20);
    std::mt19937 random(42);
    std::map<uint64_t, heap_block *> live; /* by offset */
    for (int i = 0; i < 50000; i++) {
        if (live.empty() || random() % 5 < 3) {
            uint64_t size = random() % 3 == 0 ? random() % 50000 : random() % 300;
            heap_block *block = heap_alloc(&h.raw, size);
            if (block == nullptr)
                continue;
            ASSERT_EQ(block->offset % HEAP_ALIGNMENT, 0u);
            ASSERT_GE(block->size, size);
            ASSERT_LE(block->offset + block->size, h.raw.size);
            auto behind = live.lower_bound(block->offset);
            if (behind != live.end()) {
                ASSERT_LE(block->offset + block->size, behind->first);
            }
            if (behind != live.begin()) {
                --behind;
                ASSERT_LE(behind->first + behind->second->size, block->offset);
            }
            live[block->offset] = block;
        } else {
            auto victim = std::next(live.begin(), long(random() % live.size()));
            heap_free(&h.raw, victim->second);
            live.erase(victim);
        }
        uint64_t used = 0;
        if (i % 1000 == 0) {
            for (auto &[offset, block] : live)
                used += block->size;
            ASSERT_EQ(used, h.raw.used);
        }
    }
    for (auto &[offset, block] : live)
        heap_free(&h.raw, block);
    EXPECT_EQ(h.raw.used, 0u);
    EXPECT_NE(heap_alloc(&h.raw, 1 << 20), nullptr) << "all neighbours have been merged";
}

TEST(Heap, FillsToTheLastByte)
{
    Heap h(64 * 100);
    std::vector<heap_block *> blocks;
    while (heap_block *block = heap_alloc(&h.raw, 64))
        blocks.push_back(block);
    EXPECT_EQ(blocks.size(), 100u);
    heap_free(&h.raw, blocks[50]);
    EXPECT_NE(heap_alloc(&h.raw, 1), nullptr);
    EXPECT_EQ(heap_alloc(&h.raw, 1), nullptr);
}

TEST(Heap, FindsABlockThatIsJustLargeEnough)
{
    /* 1000 units are not the beginning of a class of sizes. */
    Heap h(64 * 1000);
    heap_block *block = heap_alloc(&h.raw, 64 * 1000);
    ASSERT_NE(block, nullptr);
    heap_free(&h.raw, block);
    EXPECT_NE(heap_alloc(&h.raw, 64 * 1000 - 63), nullptr);
}

TEST(Heap, RefusesWhatIsLargerThanItself)
{
    Heap h(4096);
    EXPECT_EQ(heap_alloc(&h.raw, 4097), nullptr);
    EXPECT_EQ(heap_alloc(&h.raw, UINT64_MAX), nullptr);
    EXPECT_NE(heap_alloc(&h.raw, 0), nullptr);
}

TEST(IdMap, HoldsWhatAMapHolds)
{
    id_map map = {};
    std::unordered_map<uint64_t, uint64_t> model;
    std::mt19937_64 random(7);
    for (int i = 0; i < 200000; i++) {
        /* Ids as the core makes them, a slot and a generation: many collide in their low bits. */
        uint64_t id = (random() % 500) | (random() % 4) << 24;
        if (model.count(id) != 0) {
            ASSERT_EQ(*id_map_find(&map, id), model[id]);
            ASSERT_TRUE(id_map_remove(&map, id));
            model.erase(id);
        } else {
            ASSERT_EQ(id_map_find(&map, id), nullptr);
            ASSERT_FALSE(id_map_remove(&map, id));
            ASSERT_TRUE(id_map_reserve(&map, 1));
            id_map_add(&map, id, uint64_t(i));
            model[id] = uint64_t(i);
        }
        ASSERT_EQ(map.count, model.size());
    }
    for (auto &[id, value] : model)
        ASSERT_EQ(*id_map_find(&map, id), value);
    id_map_free(&map);
}

} // namespace
