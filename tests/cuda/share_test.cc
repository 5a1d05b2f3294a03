// SPDX-License-Identifier: Apache-2.0
// A worker that loads a model with others, alone with what the host tells it: the others are never
// there, and nothing ends the waiting but the host.
#include <gtest/gtest.h>

#include "engine/tiny_bert.h"
#include "two_gpus.h"
#include "support/folder.h"
#include "worker/harness.h"

#include <libsched/device.h>

using namespace worker_test;

namespace
{

class Share : public BothKinds
{
  protected:
    gpu_sched_test::temporary_folder folder;
    gpu_sched_test::two_gpus gpus{folder.path()};
    gpu_sched_test::tiny_bert bert;
    segment *shared = nullptr;
    std::unique_ptr<Worker> worker;

    void SetUp() override
    {
        libsched_error err;
        bert.write();
        ASSERT_EQ(segment_create_shared(&shared, "test-share", LIBSCHED_COMMUNICATOR_SHARED_SIZE(2),
                                        &err),
                  LIBSCHED_OK)
            << err.message;
        worker = std::make_unique<Worker>(thread(), 1 << 20, [](worker_options &options) {
            options.driver = "cuda";
            options.plugin_path = EMULATED_CUDA_FOLDER;
        });
        worker->up();
    }
    ~Share() override
    {
        worker.reset();
        segment_free(shared);
    }
    void begin(uint32_t rank)
    {
        // The emulator warms up with the largest batch.
        std::vector<libsched_parameter> parameters = {integer("max_batch_units", 128)};
        worker_share share = {};
        share.id = 1;
        share.rank = rank;
        share.n_ranks = 2;
        share.shared = shared;
        worker_model model = {};
        model.key = 5;
        model.name = "test";
        model.engine = "encoder";
        model.path = bert.folder.c_str();
        model.parameters = parameters.data();
        model.n_parameters = (uint32_t)parameters.size();
        model.share = &share;
        libsched_error err;
        ASSERT_EQ(worker_load(worker->raw, &model, &err), LIBSCHED_OK) << err.message;
    }
    const unsigned char nothing[LIBSCHED_COMMUNICATOR_ID_SIZE] = {};
};

TEST_P(Share, IsNotHarmedByAnothersLostDevice)
{
    begin(1);
    ASSERT_EQ(worker_load_id(worker->raw, 5, LIBSCHED_EDEVICELOST, nothing), LIBSCHED_OK);
    const Event loaded = worker->wait(WORKER_LOADED);
    EXPECT_EQ(loaded.raw.status, LIBSCHED_OK) << loaded.message;
    // It serves on.
    ASSERT_EQ(worker_unload(worker->raw, 5), LIBSCHED_OK);
    worker->wait(WORKER_UNLOADED);
}

TEST_P(Share, GoesOnAloneWhenTheHostHasGivenItUp)
{
    begin(0);
    EXPECT_EQ(worker->wait(WORKER_LOAD_ID).raw.status, LIBSCHED_OK);
    ASSERT_EQ(worker_load_interrupt(worker->raw, 1, nullptr), LIBSCHED_OK);
    const Event loaded = worker->wait(WORKER_LOADED);
    EXPECT_EQ(loaded.raw.status, LIBSCHED_OK) << loaded.message;
}

// Nobody would end a thread that waits.
TEST_P(Share, EndsWhenItIsTold)
{
    begin(0);
    EXPECT_EQ(worker->wait(WORKER_LOAD_ID).raw.status, LIBSCHED_OK);
    worker_stop(worker->raw);
    Event event;
    do
        event = worker->next();
    while (event.raw.type != 0 && event.raw.type != WORKER_DOWN);
    EXPECT_EQ(event.raw.type, WORKER_DOWN);
    EXPECT_EQ(event.raw.status, LIBSCHED_OK) << event.message;
}

INSTANTIATE_BOTH_KINDS(Share);

} // namespace
