// SPDX-License-Identifier: Apache-2.0
// The table of requests against a map that does the same.
#include <map>
#include <random>

#include <gtest/gtest.h>

extern "C" {
#include "request_table.h"
}

namespace
{
class RequestTable : public testing::Test
{
  protected:
    void SetUp() override
    {
        ASSERT_EQ(request_table_init(&table), 0);
    }
    void TearDown() override
    {
        request_table_free(&table);
    }
    request_table table = {};
    bool in_use = false;
};

TEST_F(RequestTable, AnIdIsListedOnce)
{
    uint32_t index = request_table_add(&table, 7, &in_use);
    ASSERT_NE(index, REQUEST_NONE);
    EXPECT_EQ(request_table_find(&table, 7), index);
    EXPECT_EQ(request_table_add(&table, 7, &in_use), REQUEST_NONE);
    EXPECT_TRUE(in_use);
    request_table_remove(&table, index);
    EXPECT_EQ(request_table_find(&table, 7), REQUEST_NONE);
    EXPECT_NE(request_table_add(&table, 7, &in_use), REQUEST_NONE);
    EXPECT_NE(request_table_add(&table, UINT32_MAX, &in_use), REQUEST_NONE);
    EXPECT_NE(request_table_find(&table, UINT32_MAX), REQUEST_NONE);
}

TEST_F(RequestTable, AgreesWithAMap)
{
    std::mt19937 random(3);
    std::map<uint32_t, uint32_t> map;
    for (int i = 0; i < 200000; i++) {
        // Near ids collide, as those of a counter that wraps do.
        uint32_t id = random() % 6000 + UINT32_MAX - 3000;
        auto found = map.find(id);
        ASSERT_EQ(request_table_find(&table, id),
                  found == map.end() ? REQUEST_NONE : found->second);
        if (found == map.end()) {
            uint32_t index = request_table_add(&table, id, &in_use);
            ASSERT_NE(index, REQUEST_NONE);
            ASSERT_EQ(request_table_at(&table, index)->id, id);
            map[id] = index;
        } else if (random() % 3) {
            request_table_remove(&table, found->second);
            map.erase(found);
        }
        ASSERT_EQ(table.count, map.size());
    }
}
} // namespace
