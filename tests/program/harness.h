// SPDX-License-Identifier: Apache-2.0
// Runs a program's ranks as workers would: each on a device of its own, in a thread of its own.
#ifndef TESTS_PROGRAM_HARNESS_H
#define TESTS_PROGRAM_HARNESS_H

#include <map>
#include <string>
#include <vector>

#include "device/ranks.h"
#include "program/registry.h"

namespace program_test
{

class Parameters
{
  public:
    Parameters() = default;
    Parameters(std::initializer_list<std::pair<std::string, std::string>> texts)
    {
        for (auto &[name, value] : texts)
            set(name, value);
    }
    Parameters &set(const std::string &name, const std::string &value)
    {
        entries[name] = {LIBSCHED_PARAMETER_STRING, value, 0, 0};
        return *this;
    }
    Parameters &set(const std::string &name, int64_t value)
    {
        entries[name] = {LIBSCHED_PARAMETER_INT, "", value, 0};
        return *this;
    }
    Parameters &set(const std::string &name, int value)
    {
        return set(name, int64_t(value));
    }
    Parameters &set(const std::string &name, double value)
    {
        entries[name] = {LIBSCHED_PARAMETER_FLOAT, "", 0, value};
        return *this;
    }
    std::vector<libsched_parameter> list() const
    {
        std::vector<libsched_parameter> out;
        for (auto &[name, entry] : entries) {
            libsched_parameter p = {};
            p.name = name.c_str();
            p.type = entry.type;
            if (entry.type == LIBSCHED_PARAMETER_STRING)
                p.value.string = entry.text.c_str();
            else if (entry.type == LIBSCHED_PARAMETER_INT)
                p.value.integer = entry.integer;
            else
                p.value.real = entry.real;
            out.push_back(p);
        }
        return out;
    }

  private:
    struct Entry {
        uint32_t type;
        std::string text;
        int64_t integer;
        double real;
    };
    std::map<std::string, Entry> entries;
};

struct Checked {
    int status;
    std::string message; /* what is wrong, or the program's text */
    uint64_t memory_bytes;
};

inline Checked check(const std::string &program, const Parameters &parameters, uint32_t n_ranks = 1)
{
    std::vector<libsched_parameter> list = parameters.list();
    libsched_program_args args = {};
    args.struct_size = sizeof(args);
    args.name = "test";
    args.parameters = list.data();
    args.n_parameters = uint32_t(list.size());
    args.n_ranks = n_ranks;
    libsched_program_needs needs = {};
    libsched_error err = {};
    int status = program_find_builtin(program.c_str())->check(&args, &needs, &err);
    return {status, status < 0 ? err.message : needs.text, needs.memory_bytes};
}

// What came of one rank.
struct Outcome {
    int status = LIBSCHED_EPROTOCOL;
    std::string message;
    uint64_t steps = 0;
    std::map<std::string, double> numbers;
    std::map<std::string, std::string> texts;
    uint64_t done = 0, total = 0; /* the last progress */
    bool went_back = false;       /* the progress */
    std::string line;
    uint64_t memory = 0;                /* of the device, the most that it had taken */
    uint64_t cancel_after = UINT64_MAX; /* looks at the flag */
};

namespace detail
{

inline void progress(void *host, uint64_t done, uint64_t total, const char *message)
{
    Outcome *out = static_cast<Outcome *>(host);
    out->went_back |= done < out->done || done > total;
    out->done = done;
    out->total = total;
    out->line = message;
}

inline int result(void *host, const libsched_parameter *value)
{
    Outcome *out = static_cast<Outcome *>(host);
    if (value->type == LIBSCHED_PARAMETER_STRING)
        out->texts[value->name] = value->value.string;
    else if (value->type == LIBSCHED_PARAMETER_INT)
        out->numbers[value->name] = double(value->value.integer);
    else
        out->numbers[value->name] = value->value.real;
    return LIBSCHED_OK;
}

inline bool cancelled(void *host)
{
    Outcome *out = static_cast<Outcome *>(host);
    return out->cancel_after == 0 || out->cancel_after-- == 0;
}

inline void log(void *, const char *)
{
}

} // namespace detail

// Device memory that is taken, as far as the device knows.
inline uint64_t memory_taken(libsched_device *device)
{
    libsched_device_properties info = {};
    libsched_error err = {};
    info.struct_size = sizeof(info);
    EXPECT_EQ(device->driver->info(device, &info, &err), LIBSCHED_OK) << err.message;
    return info.memory_total - info.memory_free;
}

// One rank, from its start to its end.
inline void run_rank(const libsched_program *program, const Parameters &parameters,
                     libsched_device *device, libsched_device_communicator *communicator,
                     uint32_t number, uint32_t n_ranks, Outcome *out)
{
    static const libsched_program_host host = {sizeof(host), detail::progress, detail::result,
                                               detail::cancelled, detail::log};
    libsched_error err = {};
    libsched_program_rank *rank = nullptr;
    const uint64_t taken = memory_taken(device);
    auto look = [&] {
        const uint64_t now = memory_taken(device);
        out->memory = now > taken && now - taken > out->memory ? now - taken : out->memory;
    };
    {
        /* What a call is given is gone when it returns. */
        Parameters own = parameters;
        std::vector<libsched_parameter> list = own.list();
        libsched_program_args args = {};
        args.struct_size = sizeof(args);
        args.name = "test";
        args.parameters = list.data();
        args.n_parameters = uint32_t(list.size());
        args.n_ranks = n_ranks;
        args.rank = number;
        args.threads = 1;
        args.device = device;
        args.communicator = communicator;
        out->status = program->start(&rank, &args, &host, out, &err);
    }
    if (out->status == LIBSCHED_OK) {
        bool finished = false;
        look();
        while (out->status == LIBSCHED_OK && !finished) {
            out->status = program->step(rank, ++out->steps, &finished, &host, out, &err);
            look();
        }
        program->close(rank);
    }
    out->message = err.message;
}

inline std::vector<Outcome> run(const std::string &name, const Parameters &parameters,
                                uint32_t n_ranks = 1, uint64_t cancel_after = UINT64_MAX,
                                const gpu_sched_test::device_case &on = gpu_sched_test::cpu_case)
{
    const libsched_program *program = program_find_builtin(name.c_str());
    std::vector<Outcome> outcomes(n_ranks);
    gpu_sched_test::run_threads(on, n_ranks, [&](gpu_sched_test::rank &own) {
        Outcome &out = outcomes[own.number];
        out.cancel_after = cancel_after;
        run_rank(program, parameters, own.device, n_ranks > 1 ? own.communicator : nullptr,
                 own.number, n_ranks, &out);
        if (out.status < 0)
            own.driver->communicator_abort(own.communicator);
    });
    return outcomes;
}

} // namespace program_test

#endif
