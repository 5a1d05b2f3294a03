// SPDX-License-Identifier: Apache-2.0
// What a worker says of its rank is believed only where it can be.
#include "worker/rank_harness.h"

#include <cstdlib>

#include <fcntl.h>
#include <gmock/gmock.h>

using namespace worker_test;
using testing::HasSubstr;

namespace
{

TEST(HostileRank, IsKilledAndReported)
{
    const std::string told = "does what it was not told to", job = "a job that it does not have";
    const std::vector<std::pair<std::string, std::string>> reasons = {
        {"rank_other_job", job},
        {"rank_unasked_step", told},
        {"rank_unasked_close", told},
        {"rank_status", told},
        {"rank_started_twice", told},
        {"rank_gone", job},
        {"rank_id", told},
        {"rank_kept", told},
        {"rank_load_id", "what others should load by, unasked"},
        {"rank_progress", told},
        {"rank_result_type", "neither a boolean, a number nor a string"},
        {"rank_result_name", "a result's name"},
        {"rank_results", "may have 65536 in all"},
        {"rank_check", "a job that it was not asked for"},
    };
    for (auto &[how, reason] : reasons) {
        setenv("HOSTILE", how.c_str(), 1);
        Worker w(false, 1 << 20, [](worker_options &o) { o.worker_path = HOSTILE_WORKER_PATH; });
        unsetenv("HOSTILE");
        worker_rank rank = {};
        rank.job = 9;
        rank.name = rank.program = "test";
        rank.n_ranks = 1;
        ASSERT_EQ(worker_rank_start(w.raw, &rank, nullptr), 0);
        Event event;
        do
            event = w.next();
        while (event.raw.type != WORKER_DOWN && event.raw.type != 0);
        EXPECT_EQ(event.raw.type, WORKER_DOWN) << how;
        EXPECT_EQ(event.raw.status, LIBSCHED_EPROTOCOL) << how;
        EXPECT_THAT(event.message, HasSubstr(reason)) << how;
    }
}

/* A worker can't lock the others out of what they share, nor cut it short under them. */
TEST(SharedSegment, IsSealedButForWriting)
{
    segment *shared = nullptr;
    libsched_error err;
    ASSERT_EQ(segment_create_shared(&shared, "test", 1 << 20, &err), 0) << err.message;
    EXPECT_TRUE(segment_is_shared(shared));
    int seals = fcntl(segment_fd(shared), F_GET_SEALS);
    const int wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    EXPECT_EQ(seals & (wanted | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE), wanted);
    segment_free(shared);
}

} // namespace
