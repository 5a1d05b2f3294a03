/* SPDX-License-Identifier: Apache-2.0 */
/* A batch of an encoder, for tests that begin and finish steps themselves. */
#ifndef TESTS_CUDA_BATCH_H
#define TESTS_CUDA_BATCH_H

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/encoder_harness.h"

namespace gpu_sched_test
{

using token_ids = std::vector<int32_t>;

/* A batch, as the host has it until it is over: an item for each list of sequences. */
class Batch
{
  public:
    explicit Batch(const std::vector<std::vector<token_ids>> &requests)
    {
        for (const auto &sequences : requests) {
            Item &item = items.emplace_back();
            item.inputs = prepared_request(sequences).inputs;
            for (const auto &[name, t] : item.inputs)
                item.tensors.push_back(tensor_of(name, t));
            item.raw.id = items.size();
            item.raw.n_inputs = (uint32_t)item.tensors.size();
            item.raw.inputs = item.tensors.data();
            list.push_back(&item.raw);
        }
        raw.struct_size = sizeof(raw);
        raw.n_items = (uint32_t)list.size();
        raw.items = list.data();
        raw.host = this;
    }
    Batch(const Batch &) = delete;
    Batch &operator=(const Batch &) = delete;

    struct Item {
        libsched_item raw = {};
        std::map<std::string, owned_tensor> inputs;
        std::vector<libsched_tensor> tensors;
        std::vector<float> output;
        int ends = 0, status = LIBSCHED_EPROTOCOL;
        std::string message;
    };
    std::deque<Item> items;
    libsched_engine_batch raw = {};

    size_t ended() const
    {
        return (size_t)std::count_if(items.begin(), items.end(),
                                     [](const Item &i) { return i.ends > 0; });
    }

    static const libsched_engine_host host;

  private:
    std::vector<libsched_item *> list;

    Item &of(const libsched_item *item)
    {
        return items.at(item->id - 1);
    }
    static void *make(void *self, libsched_item *item, const char *, uint32_t, uint32_t,
                      const int64_t *, uint64_t size)
    {
        Item &i = static_cast<Batch *>(self)->of(item);
        i.output.assign(size / sizeof(float), -7);
        return i.output.data();
    }
    static void part(void *, libsched_item *)
    {
        ADD_FAILURE() << "a part";
    }
    static void end(void *self, libsched_item *item, int status, const char *message)
    {
        Item &i = static_cast<Batch *>(self)->of(item);
        i.ends++;
        i.status = status;
        i.message = message != nullptr ? message : "";
        /* Its memory is another's from now on. */
        if (status != LIBSCHED_OK)
            std::vector<float>().swap(i.output);
    }
    static void log(void *, const char *)
    {
    }
};

inline const libsched_engine_host Batch::host = {sizeof(host), make, part, end, log};

} // namespace gpu_sched_test

#endif
