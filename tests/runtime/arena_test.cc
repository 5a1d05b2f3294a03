// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/arena.h"

namespace
{

struct Free {
    void operator()(runtime_arena *arena) const
    {
        runtime_arena_free(arena);
    }
};
using Arena = std::unique_ptr<runtime_arena, Free>;

TEST(Arena, GivesAlignedPiecesThatDoNotOverlap)
{
    Arena arena(runtime_arena_new(1 << 20));
    runtime_arena_block *a = runtime_arena_take(arena.get(), 1);
    runtime_arena_block *b = runtime_arena_take(arena.get(), 65);
    runtime_arena_block *c = runtime_arena_take(arena.get(), 0);
    ASSERT_TRUE(a && b && c);
    uint64_t at[] = {runtime_arena_offset(a), runtime_arena_offset(b), runtime_arena_offset(c)};
    for (uint64_t offset : at)
        EXPECT_EQ(offset % RUNTIME_ARENA_ALIGNMENT, 0u);
    EXPECT_EQ(runtime_arena_used(arena.get()), 64u + 128 + 64);
    EXPECT_TRUE(runtime_arena_check(arena.get()));
    runtime_arena_give(arena.get(), b);
    runtime_arena_give(arena.get(), a);
    runtime_arena_give(arena.get(), c);
    runtime_arena_give(arena.get(), nullptr);
    EXPECT_EQ(runtime_arena_used(arena.get()), 0u);
    EXPECT_TRUE(runtime_arena_check(arena.get()));
}

TEST(Arena, CanBeFilledToItsEnd)
{
    for (uint64_t size : {64u, 128u, 4096u, 1000000u, (1u << 20) + 64}) {
        Arena arena(runtime_arena_new(size));
        uint64_t whole = runtime_arena_size(arena.get());
        EXPECT_EQ(runtime_arena_take(arena.get(), whole + 1), nullptr);
        runtime_arena_block *all = runtime_arena_take(arena.get(), whole);
        ASSERT_NE(all, nullptr) << size;
        EXPECT_EQ(runtime_arena_take(arena.get(), 1), nullptr);
        runtime_arena_give(arena.get(), all);
        // And piece by piece.
        std::vector<runtime_arena_block *> pieces;
        while (runtime_arena_block *piece = runtime_arena_take(arena.get(), 64))
            pieces.push_back(piece);
        EXPECT_EQ(pieces.size(), whole / 64);
        for (runtime_arena_block *piece : pieces)
            runtime_arena_give(arena.get(), piece);
        EXPECT_NE(runtime_arena_take(arena.get(), whole), nullptr);
    }
}

TEST(Arena, RefusesSizesThatMakeNoSense)
{
    EXPECT_EQ(runtime_arena_new(0), nullptr);
    EXPECT_EQ(runtime_arena_new(63), nullptr);
    runtime_arena_free(nullptr);
    Arena arena(runtime_arena_new(UINT64_C(1) << 40));
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(runtime_arena_take(arena.get(), UINT64_MAX), nullptr);
    EXPECT_NE(runtime_arena_take(arena.get(), UINT64_C(1) << 40), nullptr);
}

TEST(Arena, HoldsTogetherWhateverIsTaken)
{
    constexpr uint64_t size = 4 << 20;
    std::mt19937_64 random(7);
    struct Piece {
        runtime_arena_block *block;
        uint64_t size;
    };
    Arena arena(runtime_arena_new(size));
    std::vector<Piece> pieces;
    uint64_t refused = 0;
    for (int i = 0; i < 50000; i++) {
        bool take = pieces.empty() || random() % 100 < (i / 5000 % 2 == 0 ? 60u : 40u);
        if (take) {
            uint64_t bits = random() % 19;
            uint64_t want = random() & ((UINT64_C(1) << bits) - 1);
            runtime_arena_block *block = runtime_arena_take(arena.get(), want);
            if (block != nullptr)
                pieces.push_back({block, want});
            else
                refused++;
        } else {
            std::swap(pieces[random() % pieces.size()], pieces.back());
            runtime_arena_give(arena.get(), pieces.back().block);
            pieces.pop_back();
        }
        if (i % 97 == 0) {
            ASSERT_TRUE(runtime_arena_check(arena.get())) << "step " << i;
        }
    }
    EXPECT_GT(refused, 0u);
    std::sort(pieces.begin(), pieces.end(), [](const Piece &a, const Piece &b) {
        return runtime_arena_offset(a.block) < runtime_arena_offset(b.block);
    });
    uint64_t end = 0;
    for (const Piece &piece : pieces) {
        EXPECT_GE(runtime_arena_offset(piece.block), end);
        end = runtime_arena_offset(piece.block) + piece.size;
    }
    EXPECT_LE(end, size);
    for (const Piece &piece : pieces)
        runtime_arena_give(arena.get(), piece.block);
    EXPECT_TRUE(runtime_arena_check(arena.get()));
    EXPECT_NE(runtime_arena_take(arena.get(), size), nullptr);
}

} // namespace
