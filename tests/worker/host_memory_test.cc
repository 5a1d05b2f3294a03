// SPDX-License-Identifier: Apache-2.0
// What memory a device is told of: the worker's results, and the host's own inputs. Not what
// somebody else lent for one request.
#include "worker/harness.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gmock/gmock.h>

using namespace worker_test;
using testing::ElementsAre;

namespace
{

class HostMemory : public BothKinds
{
  protected:
    static void on_telling(worker_options &options)
    {
        options.driver = "telling";
        options.plugin_path = TELLING_FOLDER;
    }
    static std::vector<std::string> logged(const Worker &w)
    {
        std::vector<std::string> lines;
        for (const Event &event : w.passed)
            if (event.raw.type == WORKER_LOG)
                lines.push_back(event.message);
        return lines;
    }
    // A memfd of somebody else's, filled with 7.
    static segment *lent()
    {
        const int fd = memfd_create("lent", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        const std::string data(4096, 7);
        EXPECT_EQ(write(fd, data.data(), data.size()), ssize_t(data.size()));
        EXPECT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
        segment *s = nullptr;
        libsched_error err;
        EXPECT_EQ(segment_import(&s, fd, 4096, &err), 0) << err.message;
        close(fd);
        return s;
    }
};
INSTANTIATE_BOTH_KINDS(HostMemory);

TEST_P(HostMemory, ThatStaysIsToldOfOnce)
{
    Worker w(thread(), 1 << 20, on_telling);
    w.up();
    EXPECT_THAT(logged(w),
                ElementsAre("test:0: told of 1048576 bytes to be written, beginning with 0"));
    w.load();
    w.inputs.data()[0] = 5;
    // One that is lent, and the host's own, twice.
    segment *other = lent();
    for (uint64_t batch = 1; batch <= 3; batch++) {
        worker_tensor tensor = {};
        tensor.name = "data";
        tensor.datatype = LIBSCHED_UINT8;
        tensor.rank = 1;
        tensor.shape[0] = 100;
        tensor.segment = batch == 1 ? other : w.inputs.raw;
        tensor.size = 100;
        worker_item item = {};
        item.id = batch;
        item.units = 1;
        item.n_inputs = 1;
        item.inputs = &tensor;
        worker_step step = {};
        step.batch = batch;
        step.key = 1;
        step.n_joins = 1;
        step.joins = &item;
        libsched_error err;
        ASSERT_EQ(worker_run(w.raw, &step, &err), 0) << err.message;
        w.wait(WORKER_STEP);
    }
    EXPECT_THAT(logged(w),
                ElementsAre("test:0: told of 1048576 bytes to be written, beginning with 0",
                            "test:0: told of 67108864 bytes to be read, beginning with 5"));
    segment_free(other);
}

} // namespace
