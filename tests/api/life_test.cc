// SPDX-License-Identifier: Apache-2.0
// Opening, draining, closing; structs of other sizes; devices; two schedulers at once.
#include <filesystem>
#include <fstream>
#include <memory>

#include <sys/wait.h>

#include "scheduler.h"

using namespace api_test;

class Life : public ApiTest
{
};

TEST_P(Life, OfASchedulerThatIsNeverUsed)
{
    Scheduler s(GetParam());
    EXPECT_GE(libsched_device_count(s.get()), 1u);
    libsched_close(nullptr);
}

TEST_P(Life, ClosesInTheMiddleOfABatch)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", GetParam() == Workers::process ? 60000000 : 300000));
    Request request("m");
    for (int i = 0; i < 100; i++)
        s.submit(request);
    s.run_until([&] { return s.stats().running > 0; });
    uint64_t before = libsched_now();
    s.close();
    EXPECT_LT(libsched_now() - before, 1000000000u);
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1); // no child is left
    EXPECT_EQ(errno, ECHILD);
}

TEST_P(Life, ClosesWithCompletionsAndBuffersHeld)
{
    Scheduler s(GetParam());
    s.load("m");
    Request request("m");
    libsched_buffer *buffer;
    ASSERT_EQ(libsched_buffer_alloc(s.get(), 100, &buffer, nullptr), LIBSCHED_OK);
    for (int i = 0; i < 3; i++)
        s.submit(request);
    libsched_completion held[2];
    size_t n = 0;
    while (n < 2) {
        pollfd fd = {libsched_fd(s.get()), POLLIN, 0};
        ASSERT_EQ(poll(&fd, 1, 120000), 1);
        libsched_process(s.get(), 0);
        n += libsched_reap(s.get(), held + n, 2 - n);
    }
    EXPECT_EQ(held[0].n_outputs, 1u);
}

TEST_P(Life, LeavesNoDescriptorBehind)
{
    auto open_descriptors = [] {
        auto all = std::filesystem::directory_iterator("/proc/self/fd");
        return std::distance(begin(all), end(all));
    };
    auto live = [] {
        Scheduler s(GetParam());
        s.load("m", Parameters().integer("prepare_us", 0));
        Request request("m");
        libsched_buffer *buffer = nullptr;
        libsched_buffer_alloc(s.get(), 10, &buffer, nullptr);
        s.infer(request);
    };
    live();
    auto before = open_descriptors();
    for (int i = 0; i < 3; i++)
        live();
    EXPECT_EQ(open_descriptors(), before);
}

TEST_P(Life, Drains)
{
    Scheduler s(GetParam());
    s.load("m", Parameters().integer("a_us", 10000).integer("max_batch_requests", 1));
    Request request("m");
    for (int i = 0; i < 5; i++)
        s.submit(request);
    libsched_drain(s.get());
    libsched_error err{};
    uint64_t id;
    EXPECT_EQ(libsched_submit(s.get(), request.get(), &id, &err), LIBSCHED_ECLOSING);
    EXPECT_EQ(s.begin_load("n", {}, 0, &err), LIBSCHED_ECLOSING);
    s.run_until([&] { return s.stats().queued + s.stats().running == 0 && s.n_ends == 5; });
    for (const auto &[each, done] : s.ends)
        EXPECT_EQ(done.status(), LIBSCHED_OK);
}

TEST_P(Life, DrainsWithoutWaitingForAModelToLoad)
{
    Scheduler s(GetParam());
    ASSERT_EQ(s.begin_load("m", Parameters().integer("load_us", 500000)), LIBSCHED_OK);
    Request request("m");
    uint64_t id = s.submit(request);
    libsched_drain(s.get());
    s.run_until([&] { return s.n_ends == 1; });
    EXPECT_EQ(s.ends.at(id).status(), LIBSCHED_ECLOSING);
    EXPECT_EQ(s.model("m").state, LIBSCHED_MODEL_LOADING);
}

TEST_P(Life, OfTwoSchedulersInOneProcess)
{
    Scheduler a(GetParam()), b(GetParam());
    a.load("m", Parameters().integer("max_batch_requests", 2));
    b.load("m", Parameters().integer("max_batch_requests", 3));
    EXPECT_EQ(a.model("m").max_batch_requests, 2u);
    EXPECT_EQ(b.model("m").max_batch_requests, 3u);
    Request one("m", 10, 1), two("m", 10, 2);
    EXPECT_EQ(a.infer(one).outputs.at("checksum").scalar<uint64_t>(), checksum(one.data));
    EXPECT_EQ(b.infer(two).outputs.at("checksum").scalar<uint64_t>(), checksum(two.data));
    a.close();
    EXPECT_EQ(b.infer(two).status(), LIBSCHED_OK);
}

TEST_P(Life, TakesStructsOfOtherSizes)
{
    Scheduler s(GetParam());
    s.load("m");

    // Built before the last members were added: they have their defaults.
    Request request("m", 10);
    libsched_request *raw = request.get();
    raw->struct_size = offsetof(libsched_request, n_parameters);
    raw->n_parameters = 1000;
    EXPECT_EQ(s.end_of([&] {
                   uint64_t id = 0;
                   EXPECT_EQ(libsched_submit(s.get(), raw, &id, nullptr), LIBSCHED_OK);
                   return id;
               }())
                  .status(),
              LIBSCHED_OK);

    // Built after more were added: fine while they are zero.
    struct {
        libsched_request known;
        uint64_t more;
    } later{*request.get(), 0};
    later.known.struct_size = sizeof(later);
    uint64_t id;
    libsched_error err{};
    EXPECT_EQ(libsched_submit(s.get(), &later.known, &id, &err), LIBSCHED_OK) << err.message;
    later.more = 1;
    EXPECT_EQ(libsched_submit(s.get(), &later.known, &id, &err), LIBSCHED_EINVAL);
    later.known.struct_size = 0;
    EXPECT_EQ(libsched_submit(s.get(), &later.known, &id, &err), LIBSCHED_EINVAL);
    EXPECT_NE(std::string(err.message).find("_INIT"), std::string::npos);

    // The same for the others that are read.
    struct {
        libsched_model_options known;
        uint64_t more;
    } model{LIBSCHED_MODEL_OPTIONS_INIT, 0};
    model.known.name = "n";
    model.known.engine = "synthetic";
    model.known.struct_size = offsetof(libsched_model_options, n_parameters);
    model.known.n_parameters = 1000;
    model.known.queue_limit = 1;
    EXPECT_EQ(libsched_model_load(s.get(), &model.known, &err), LIBSCHED_OK) << err.message;
    EXPECT_EQ(s.model("n").queue_limit, 4096u);
    model.known = LIBSCHED_MODEL_OPTIONS_INIT;
    model.known.name = "o";
    model.known.engine = "synthetic";
    model.known.struct_size = sizeof(model);
    model.more = 1;
    EXPECT_EQ(libsched_model_load(s.get(), &model.known, &err), LIBSCHED_EINVAL);
    EXPECT_NE(std::string(err.message).find("libsched_model_options"), std::string::npos);
    model.more = 0;
    EXPECT_EQ(libsched_model_load(s.get(), &model.known, &err), LIBSCHED_OK) << err.message;

    struct {
        libsched_options known;
        uint64_t more;
    } open{LIBSCHED_OPTIONS_INIT, 1};
    libsched *other = nullptr;
    open.known.worker_path = SCHED_WORKER_PATH;
    open.known.struct_size = sizeof(open);
    EXPECT_EQ(libsched_open(&other, &open.known, &err), LIBSCHED_EINVAL);
    EXPECT_NE(std::string(err.message).find("libsched_options"), std::string::npos);
    open.known.struct_size = 0;
    EXPECT_EQ(libsched_open(&other, &open.known, &err), LIBSCHED_EINVAL);
    open.known.struct_size = offsetof(libsched_options, cpu_devices);
    open.known.cpu_devices = 1000;
    EXPECT_EQ(libsched_open(&other, &open.known, &err), LIBSCHED_OK) << err.message;
    libsched_close(other);

    // What is filled in stays within what the caller has.
    struct {
        libsched_stats known;
        uint64_t more;
    } stats;
    memset(&stats, 0xff, sizeof(stats));
    stats.known.struct_size = offsetof(libsched_stats, counters);
    EXPECT_EQ(libsched_get_stats(s.get(), &stats.known), LIBSCHED_OK);
    EXPECT_LT(stats.known.uptime_ns, UINT64_MAX);
    EXPECT_EQ(stats.known.counters.submitted, UINT64_MAX);
    stats.known.struct_size = sizeof(stats);
    EXPECT_EQ(libsched_get_stats(s.get(), &stats.known), LIBSCHED_OK);
    EXPECT_EQ(stats.more, 0u);
    EXPECT_EQ(stats.known.struct_size, sizeof(stats));
    stats.known.struct_size = 0;
    EXPECT_EQ(libsched_get_stats(s.get(), &stats.known), LIBSCHED_EINVAL);

    libsched_device_info device;
    memset(&device, 0xff, sizeof(device));
    device.struct_size = offsetof(libsched_device_info, model);
    EXPECT_EQ(libsched_device_get(s.get(), 0, &device), LIBSCHED_OK);
    EXPECT_STREQ(device.name, "cpu:0");
    EXPECT_EQ(device.batches, UINT64_MAX);
    device.struct_size = 0;
    EXPECT_EQ(libsched_device_get(s.get(), 0, &device), LIBSCHED_EINVAL);
    libsched_model_info info;
    memset(&info, 0xff, sizeof(info));
    info.struct_size = offsetof(libsched_model_info, engine);
    EXPECT_EQ(libsched_model_find(s.get(), "m", &info), LIBSCHED_OK);
    EXPECT_STREQ(info.name, "m");
    EXPECT_EQ(info.queue_limit, UINT32_MAX);
    info.struct_size = 0;
    EXPECT_EQ(libsched_model_get(s.get(), 0, &info), LIBSCHED_EINVAL);
}

TEST_P(Life, TellsOfDevices)
{
    Scheduler s(GetParam(), [](libsched_options &o) {
        o.cpu_devices = 2;
        o.cores_per_device = 1;
    });
    s.await_device(0);
    s.await_device(1);
    libsched_device_info info = s.device(0);
    EXPECT_STREQ(info.name, "cpu:0");
    EXPECT_EQ(info.kind, uint32_t(LIBSCHED_DEVICE_CPU));
    EXPECT_EQ(info.cores, 1u);
    EXPECT_NE(std::string(info.cpus), "");
    EXPECT_EQ(info.pid > 0, GetParam() == Workers::process);
    EXPECT_EQ(libsched_device_get(s.get(), 99, &info), LIBSCHED_ENODEVICE);
    // Each is bound to the cores it is said to have.
    for (uint32_t i = 0; i < 2 && GetParam() == Workers::process; i++) {
        info = s.device(i);
        std::ifstream status("/proc/" + std::to_string(info.pid) + "/status");
        std::string line, cpus;
        while (std::getline(status, line))
            if (line.rfind("Cpus_allowed_list:\t", 0) == 0)
                cpus = line.substr(line.find('\t') + 1);
        EXPECT_EQ(cpus, info.cpus) << info.name;
    }
    bool told = false;
    for (const Done &change : s.changes)
        told = told || (change.raw.kind == LIBSCHED_DEVICE && change.name == "cpu:1" &&
                        change.raw.state == LIBSCHED_DEVICE_UP);
    EXPECT_TRUE(told);
}

namespace
{

std::string recorded_machine(const std::string &file)
{
    const char *given = getenv("GPU_SCHED_SHARED_DATA");
    std::string folder = given != nullptr ? given : GPU_SCHED_SOURCE_DIR "/../shared/data";
    return folder + "/topologies/" + file;
}

// Of a device that is listed only to say what there is.
void expect_absent(const libsched_device_info &info)
{
    EXPECT_EQ(info.state, uint32_t(LIBSCHED_DEVICE_ABSENT)) << info.name;
    EXPECT_STRNE(info.reason, "") << info.name;
    EXPECT_STRNE(info.model, "") << info.name;
    EXPECT_STRNE(info.cpus, "") << info.name;
    EXPECT_EQ(info.pid, 0) << info.name;
    EXPECT_EQ(info.kind == LIBSCHED_DEVICE_GPU, info.pci[0] != '\0') << info.name;
}

void expect_not_loadable(Scheduler &s, const char *device)
{
    libsched_error err{};
    libsched_model_options options = LIBSCHED_MODEL_OPTIONS_INIT;
    options.name = "m";
    options.engine = "synthetic";
    options.devices = &device;
    options.n_devices = 1;
    EXPECT_EQ(libsched_model_load(s.get(), &options, &err), LIBSCHED_ENODEVICE);
    EXPECT_NE(std::string(err.message).find(device), std::string::npos) << err.message;
}

} // namespace

TEST_P(Life, ListsTheDevicesOfRecordedMachines)
{
    const struct {
        const char *file;
        uint32_t cpus;
        std::vector<int> gpu_nodes;
    } machines[] = {
        {"dgx2-16v100-nvswitch.xml", 2, {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1}},
        {"power8-4p100-nvlink.xml", 2, {0, 0, 1, 1}},
        {"x86-24em64t-2n6c2t-pci.xml", 2, {0, 1, 1}},
        {"x86-32em64t-2n8c2t-pci-wholeio.xml", 2, {0, 1, 1}},
    };
    for (const auto &machine : machines) {
        std::string path = recorded_machine(machine.file);
        if (!std::ifstream(path))
            GTEST_SKIP() << path << " is not here: set GPU_SCHED_SHARED_DATA";
        Scheduler s(GetParam(), [&](libsched_options &o) {
            o.topology_xml = path.c_str();
            o.cpu_devices = 0;
        });
        std::vector<int> gpu_nodes;
        uint32_t cpus = 0;
        for (uint32_t i = 0; i < libsched_device_count(s.get()); i++) {
            libsched_device_info info = s.device(i);
            expect_absent(info);
            if (info.kind == LIBSCHED_DEVICE_GPU)
                gpu_nodes.push_back(info.numa_node);
            else
                cpus++;
        }
        EXPECT_EQ(cpus, machine.cpus) << machine.file;
        EXPECT_EQ(gpu_nodes.size(), machine.gpu_nodes.size()) << machine.file;
        // The numbers are the system's own: what counts is who shares one.
        for (size_t i = 1; i < gpu_nodes.size() && i < machine.gpu_nodes.size(); i++)
            EXPECT_EQ(gpu_nodes[i] == gpu_nodes[0], machine.gpu_nodes[i] == machine.gpu_nodes[0])
                << machine.file << " gpu:" << i;
        libsched_error err{};
        EXPECT_EQ(s.begin_load("m", {}, 0, &err), LIBSCHED_ENODEVICE);
        expect_not_loadable(s, "cpu:0");
        expect_not_loadable(s, "gpu:0");
    }
}

// A machine with GPUs and nothing that drives them: hwloc is told that it is this one.
TEST_P(Life, ListsGpusWhereThereIsNoCuda)
{
    std::string path = recorded_machine("dgx2-16v100-nvswitch.xml");
    if (!std::ifstream(path))
        GTEST_SKIP() << path << " is not here: set GPU_SCHED_SHARED_DATA";
    setenv("HWLOC_XMLFILE", path.c_str(), 1);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    auto opened = std::make_unique<Scheduler>(GetParam(), [](libsched_options &options) {
        options.plugin_path = PLUGIN_FOLDER; // where that of CUDA is not
    });
    unsetenv("HWLOC_XMLFILE");
    unsetenv("HWLOC_THISSYSTEM");
    Scheduler &s = *opened;
    ASSERT_EQ(libsched_device_count(s.get()), 17u);
    for (uint32_t i = 1; i < 17; i++) {
        libsched_device_info info = s.device(i);
        expect_absent(info);
        EXPECT_EQ(info.numa_node, i <= 8 ? 0 : 1) << info.name;
        EXPECT_NE(std::string(info.reason).find("libsched-device-cuda.so was not built"),
                  std::string::npos)
            << info.reason;
    }
    expect_not_loadable(s, "gpu:3");
    // The cores compute all the same.
    s.load("m");
    EXPECT_EQ(s.model("m").devices, 1u);
    Request request("m");
    EXPECT_EQ(s.infer(request).raw.device, 0u);
}

TEST_P(Life, RefusesOptionsThatMakeNoSense)
{
    struct {
        void (*change)(libsched_options &);
        const char *word;
    } cases[] = {
        {[](libsched_options &o) { o.flags = 0x100; }, "flags"},
        {[](libsched_options &o) { o.cpu_devices = 1000; }, "cpu_devices"},
        {[](libsched_options &o) { o.cores_per_device = 100000; }, "100000 cores"},
        {[](libsched_options &o) { o.spin_us = 2000000; }, "spin_us"},
        {[](libsched_options &o) { o.prepare_workers = 1000; }, "prepare_workers"},
        {[](libsched_options &o) { o.max_requests = 1u << 25; }, "max_requests"},
        {[](libsched_options &o) { o.arena_bytes = 10; }, "arena_bytes"},
        {[](libsched_options &o) { o.result_bytes = UINT64_MAX; }, "result_bytes"},
        {[](libsched_options &o) { o.plugin_path = "here"; }, "plugin_path"},
        {[](libsched_options &o) { o.topology_xml = "/nowhere.xml"; }, "nowhere"},
    };
    for (const auto &each : cases) {
        libsched_options options = LIBSCHED_OPTIONS_INIT;
        options.worker_path = SCHED_WORKER_PATH;
        each.change(options);
        libsched *s = nullptr;
        libsched_error err{};
        EXPECT_LT(libsched_open(&s, &options, &err), 0) << each.word;
        EXPECT_EQ(s, nullptr);
        EXPECT_NE(std::string(err.message).find(each.word), std::string::npos) << err.message;
    }
}

TEST(Opening, SaysThatTheWorkerIsNotThere)
{
    for (const char *path : {"/nowhere/sched-worker", "/etc/passwd", "/"}) {
        libsched_options options = LIBSCHED_OPTIONS_INIT;
        libsched *s = nullptr;
        libsched_error err{};
        options.worker_path = path;
        EXPECT_EQ(libsched_open(&s, &options, &err), LIBSCHED_EINVAL);
        EXPECT_NE(std::string(err.message).find(path), std::string::npos) << err.message;
        EXPECT_EQ(s, nullptr);
    }
}

TEST(Opening, FindsTheWorkerBesideTheLibrary)
{
    libsched_options options = LIBSCHED_OPTIONS_INIT;
    libsched *s = nullptr;
    libsched_error err{};
    ASSERT_EQ(libsched_open(&s, &options, &err), LIBSCHED_OK) << err.message;
    libsched_close(s);
    ASSERT_EQ(libsched_open(&s, nullptr, &err), LIBSCHED_OK) << err.message;
    libsched_close(s);
}

TEST(Opening, LogsForPeople)
{
    std::vector<std::string> lines;
    {
        Scheduler s(Workers::thread, [&](libsched_options &o) {
            o.log = [](void *payload, int, const char *line) {
                static_cast<std::vector<std::string> *>(payload)->push_back(line);
            };
            o.log_payload = &lines;
        });
        s.load("some_model");
    }
    bool found = false;
    for (const std::string &line : lines)
        found = found || line.find("some_model") != std::string::npos;
    EXPECT_TRUE(found);
}

TEST(Version, IsThatOfTheHeader)
{
    EXPECT_EQ(std::string(libsched_version()), std::to_string(LIBSCHED_VERSION_MAJOR) + "." +
                                                   std::to_string(LIBSCHED_VERSION_MINOR) + "." +
                                                   std::to_string(LIBSCHED_VERSION_PATCH));
}

API_TESTS_FOR_BOTH(Life);
