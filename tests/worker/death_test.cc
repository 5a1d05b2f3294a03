// SPDX-License-Identifier: Apache-2.0
// How workers end: by themselves, by force, by nonsense, and with their host.
#include "worker/harness.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace worker_test;
using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;

namespace
{

// Everything up to the worker's end; what came before it is in w.passed.
Event await_down(Worker &w)
{
    for (;;) {
        Event event = w.next();
        if (event.raw.type == WORKER_DOWN || event.raw.type == 0) {
            EXPECT_EQ(event.raw.type, WORKER_DOWN) << "its end was not noticed";
            worker_event raw;
            EXPECT_FALSE(worker_next_event(w.raw, &raw)) << "something came behind the end";
            return event;
        }
        w.passed.push_back(event);
    }
}

int count_descriptors()
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir) != nullptr)
        n++;
    closedir(dir);
    return n;
}

/* ------------------------------------------------------------------------- both kinds */

class End : public BothKinds
{
};
INSTANTIATE_BOTH_KINDS(End);

TEST_P(End, ComesWhenItIsAskedFor)
{
    Worker w(thread());
    w.up();
    EXPECT_EQ(worker_pid(w.raw) == 0, thread());
    worker_stop(w.raw);
    Event down = await_down(w);
    EXPECT_EQ(down.raw.status, 0);
    EXPECT_EQ(down.message, "stopped as it was told");
    EXPECT_EQ(worker_pid(w.raw), 0);
    EXPECT_EQ(w.run(1, 1, {}), LIBSCHED_EDEVICELOST);
}

TEST_P(End, ComesBeforeItWasUp)
{
    Worker w(thread());
    worker_stop(w.raw);
    await_down(w);
}

TEST_P(End, ByForceIsToldLikeAnyOther)
{
    Worker w(thread());
    w.up();
    w.load();
    worker_kill(w.raw);
    Event down = await_down(w);
    EXPECT_EQ(down.raw.status, LIBSCHED_EDEVICELOST);
    EXPECT_THAT(down.message, StartsWith("killed"));
}

TEST_P(End, LeavesNoDescriptorBehind)
{
    {
        Worker warm_up(thread());
        warm_up.up();
    }
    int before = count_descriptors();
    for (int i = 0; i < 20; i++) {
        Worker w(thread());
        if (i % 2 == 0)
            w.up();
    }
    EXPECT_EQ(count_descriptors(), before);
}

TEST_P(End, IsExplainedWhereTheDeviceCannotBeOpened)
{
    Worker w(thread(), 1 << 20, [](worker_options &o) { o.driver = "no_such_driver"; });
    Event down = await_down(w);
    EXPECT_EQ(down.raw.status, LIBSCHED_ENODEVICE);
    EXPECT_THAT(down.message, HasSubstr("no_such_driver"));
}

TEST_P(End, OpensItsDeviceAndTellsOfItsMemory)
{
    Worker w(thread(), 1 << 20, [](worker_options &o) { o.driver = "cpu"; });
    w.up();
    EXPECT_EQ(w.load().raw.status, 0);
    Event memory = w.wait(WORKER_MEMORY);
    EXPECT_GT(memory.raw.free_bytes, 0u);
}

TEST_P(End, WaitsForAReaderWhoseRingIsFull)
{
    Worker w(thread(), 16 << 20);
    w.up();
    w.load({integer("max_batch_requests", 4096)});
    std::vector<Item> items;
    for (uint64_t batch = 1; batch <= 4; batch++) {
        items.clear();
        for (uint64_t i = 0; i < 4096; i++)
            items.push_back({batch * 10000 + i, "x", {flag("echo", true)}});
        ASSERT_EQ(w.run(batch, 1, items), 0) << w.run_error;
    }
    for (uint64_t batch = 1; batch <= 4; batch++) {
        EXPECT_EQ(w.wait(WORKER_STEP).raw.batch, batch);
        EXPECT_EQ(w.passed.size(), 4096u);
        w.passed.clear();
    }
}

TEST_P(End, DoesNotWaitForAReaderWhoHasGone)
{
    Worker w(thread(), 16 << 20);
    w.up();
    w.load({integer("max_batch_requests", 4096)});
    std::vector<Item> items;
    for (uint64_t batch = 1; batch <= 4; batch++) {
        items.clear();
        for (uint64_t i = 0; i < 4096; i++)
            items.push_back({batch * 10000 + i, "x", {flag("echo", true)}});
        ASSERT_EQ(w.run(batch, 1, items), 0) << w.run_error;
    }
    /* Nothing is read: the worker is freed as it is. */
}

TEST_P(End, SpinningOrNotItWakes)
{
    for (uint32_t spin_us : {0u, 50u, 2000u}) {
        Worker w(thread(), 1 << 20, [&](worker_options &o) { o.spin_us = spin_us; });
        w.up();
        w.load();
        for (uint64_t i = 1; i <= 300; i++) {
            if (i == 150)
                worker_set_spin(w.raw, 10);
            ASSERT_EQ(w.run(i, 1, {{i, "x"}}), 0);
            w.wait(WORKER_STEP);
            w.passed.clear();
        }
    }
}

TEST_P(End, RunsOnItsCores)
{
    Worker w(thread(), 1 << 20, [](worker_options &o) { o.cpus = "0"; });
    w.up();
    EXPECT_TRUE(w.passed.empty());
    if (!thread()) {
        std::ifstream status("/proc/" + std::to_string(worker_pid(w.raw)) + "/status");
        std::string line, cores;
        while (std::getline(status, line))
            if (line.rfind("Cpus_allowed_list:", 0) == 0)
                cores = line;
        EXPECT_EQ(cores, "Cpus_allowed_list:\t0");
    }
    for (const char *list : {"", "x", "3-1", "0,", "-", "99999999999999999999", "65000"}) {
        Worker lost(thread(), 1 << 20, [&](worker_options &o) { o.cpus = list; });
        lost.up();
        ASSERT_EQ(lost.passed.size(), 1u) << list;
        EXPECT_THAT(lost.passed[0].message, HasSubstr("runs on any core")) << list;
    }
}

/* -------------------------------------------------------------------------- processes */

TEST(Death, IsExplained)
{
    const std::map<std::string, std::string> reasons = {
        {"exit", "exited with code 3"},
        {"abort", "killed by signal 6 (Aborted)"},
        {"segv", "killed by signal 11 (Segmentation fault)"},
        {"kill", "killed by signal 9 (Killed)"},
        {"device_lost", "exited with code 70: a request asked for a lost device"},
    };
    for (auto &[fault, reason] : reasons) {
        Worker w(false);
        w.up();
        w.load();
        ASSERT_EQ(w.run(1, 1, {{1, "a"}, {2, "b", {text("fault", fault.c_str())}}}), 0);
        Event down = await_down(w);
        EXPECT_EQ(down.raw.status, LIBSCHED_EDEVICELOST);
        EXPECT_EQ(down.message, reason);
        EXPECT_TRUE(w.passed.empty()) << "nobody was answered";
    }
}

TEST(Death, InTheMiddleOfAStepLeavesEarlierResultsReadable)
{
    Worker w(false);
    w.up();
    w.load();
    const std::string data(100000, 'd');
    ASSERT_EQ(w.run(1, 1, {{1, data, {flag("echo", true)}}}), 0);
    w.wait(WORKER_STEP);
    Event kept = w.passed.at(0);
    w.passed.clear();
    ASSERT_EQ(w.run(2, 1, {{2, "x", {text("fault", "hang")}}}), 0);
    kill(worker_pid(w.raw), SIGKILL);
    Event down = await_down(w);
    EXPECT_EQ(down.message, "killed by signal 9 (Killed)");
    EXPECT_EQ(kept.find("data")->bytes(), data);
    worker_free(w.raw);
    w.raw = nullptr;
    EXPECT_EQ(kept.find("data")->bytes(), data);
}

TEST(Death, OfAHangingStepIsByForce)
{
    Worker w(false);
    w.up();
    w.load();
    ASSERT_EQ(w.run(1, 1, {{1, "x", {text("fault", "hang")}}}), 0);
    worker_stop(w.raw);
    worker_kill(w.raw);
    EXPECT_THAT(await_down(w).message, HasSubstr("killed by signal 9"));
}

TEST(Death, StrikesOnceWhereItIsToldTo)
{
    char folder[] = "/tmp/gpu-sched-fault-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    for (int life = 1; life <= 2; life++) {
        Worker w(false);
        w.up();
        w.load({text("fault_folder", folder)});
        ASSERT_EQ(w.run(1, 1, {{1, "x", {text("fault", "exit"), text("fault_once", "mark")}}}), 0);
        if (life == 1)
            EXPECT_EQ(await_down(w).message, "exited with code 3");
        else
            EXPECT_EQ(w.wait(WORKER_STEP).raw.status, 0);
    }
    unlink((std::string(folder) + "/mark").c_str());
    rmdir(folder);
}

TEST(Death, IsNoticedWhereTheProgramIgnoresItsChildren)
{
    struct sigaction ignore = {}, before;
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGCHLD, &ignore, &before);
    {
        Worker w(false);
        w.up();
        kill(worker_pid(w.raw), SIGKILL);
        EXPECT_EQ(await_down(w).raw.status, LIBSCHED_EDEVICELOST);
    }
    sigaction(SIGCHLD, &before, nullptr);
}

TEST(Death, DoesNotTakeTheProgramsOwnChildren)
{
    pid_t child = fork();
    if (child == 0)
        _exit(42);
    {
        Worker w(false);
        w.up();
    }
    int status;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), 42);
    EXPECT_EQ(waitpid(-1, &status, WNOHANG), -1) << "the worker was collected";
}

TEST(Start, FailsAtOnceWhereThereIsNoProgram)
{
    auto path = [](const char *p) { return [=](worker_options &o) { o.worker_path = p; }; };
    Worker absent(false, 1 << 20, path("/no/such/sched-worker"));
    EXPECT_EQ(absent.start_status, LIBSCHED_ESYSTEM);
    EXPECT_THAT(absent.start_error, HasSubstr("/no/such/sched-worker: No such file"));
    Worker relative(false, 1 << 20, path("sched-worker"));
    EXPECT_EQ(relative.start_status, LIBSCHED_EINVAL);
    Worker none(false, 1 << 20, path(nullptr));
    EXPECT_EQ(none.start_status, LIBSCHED_EINVAL);
    Worker empty(false, 0);
    EXPECT_EQ(empty.start_status, LIBSCHED_EINVAL);
}

TEST(Start, NeedsNoStandardError)
{
    int kept = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
    ASSERT_GE(kept, 0);
    close(STDERR_FILENO);
    {
        Worker w(false); /* some descriptor of its own has the number now */
        w.up();
        EXPECT_EQ(w.load().raw.status, 0);
        std::string device =
            std::filesystem::read_symlink("/proc/" + std::to_string(worker_pid(w.raw)) + "/fd/2");
        EXPECT_EQ(device, "/dev/null");
    }
    dup2(kept, STDERR_FILENO);
    close(kept);
}

TEST(Start, ByHandDoesNothing)
{
    EXPECT_EQ(WEXITSTATUS(system(SCHED_WORKER_PATH " x 2>/dev/null")), 64);
}

/* --------------------------------------------------------------------------- nonsense */

class Hostile : public testing::Test
{
  protected:
    // Starts a worker that misbehaves so, and gives it an item.
    std::unique_ptr<Worker> start(const std::string &how)
    {
        setenv("HOSTILE", how.c_str(), 1);
        auto w = std::make_unique<Worker>(
            false, 1 << 20, [](worker_options &o) { o.worker_path = HOSTILE_WORKER_PATH; });
        unsetenv("HOSTILE");
        EXPECT_EQ(w->start_status, 0) << w->start_error;
        /* One that is gone already can't be given anything. */
        if (how.rfind("exit", 0) != 0) {
            EXPECT_EQ(w->run(1, 1, {{1, "x"}}), 0);
        }
        return w;
    }
};

TEST_F(Hostile, IsKilledAndReported)
{
    const std::map<std::string, std::string> reasons = {
        {"magic", "not with what sched-worker understands"},
        {"version", "install libsched and sched-worker from the same build"},
        {"size", "install libsched and sched-worker from the same build"},
        {"epoch", "epoch 8, not 7"},
        {"anonymous", "did not say who it is"},
        {"head", "ring of events is damaged"},
        {"type", "unknown type 999"},
        {"short", "can't be read"},
        {"long", "can't be read"},
        {"description", "1000 inputs"},
        {"unknown_item", "a request it does not have"},
        {"status", "can't be read"},
        {"offset", "an output of 64 bytes at 1048576 of a result memory of 1048576"},
        {"wrapping_offset", "an output of 128 bytes"},
        {"output_size", "an output of 1048577 bytes"},
        {"shape", "but its shape takes 100"},
        {"rank", "can't be read"},
        {"datatype", "unknown datatype 99"},
        {"name", "can't be read"},
        {"outputs", "can't be read"},
        {"bytes_inside", "claims 4294967295 bytes"},
        {"twice", "a request it does not have"},
    };
    for (auto &[how, reason] : reasons) {
        auto w = start(how);
        Event down = await_down(*w);
        EXPECT_EQ(down.raw.status, LIBSCHED_EPROTOCOL) << how;
        EXPECT_THAT(down.message, StartsWith("killed, as it spoke nonsense: ")) << how;
        EXPECT_THAT(down.message, HasSubstr(reason)) << how;
    }
}

TEST_F(Hostile, CannotHarmItsHostByScribbling)
{
    for (int seed = 0; seed < 100; seed++) {
        auto w = start("random " + std::to_string(seed));
        EXPECT_THAT(await_down(*w).message, StartsWith("killed, as it spoke nonsense: ")) << seed;
    }
}

TEST_F(Hostile, CannotMakeReadingsOfItsDeviceThatHarm)
{
    auto w = start("readings");
    w->wait(WORKER_LOG);
    libsched_device_readings now;
    ASSERT_TRUE(worker_readings(w->raw, &now));
    EXPECT_EQ(now.struct_size, sizeof(now));
    EXPECT_EQ(now.age_ns, 0u);
    EXPECT_EQ(now.utilization_percent, 100u);
    EXPECT_EQ(now.memory_busy_percent, 100u);
    // Strings that end, of UTF-8.
    EXPECT_LT(strnlen(now.uuid, sizeof(now.uuid)), sizeof(now.uuid));
    EXPECT_EQ(std::string(now.reason).find('\xff'), std::string::npos);
    EXPECT_EQ(std::string(now.uuid).find('\xff'), std::string::npos);
}

TEST_F(Hostile, CannotWriteInputsOrResizeWhatIsShared)
{
    auto w = start("tamper");
    EXPECT_EQ(w->wait(WORKER_LOG).message, "nothing");
}

TEST_F(Hostile, HasItsOwnDescriptorsOnly)
{
    /* Not marked to be closed, and yet not the worker's. */
    int stray = open("/dev/null", O_RDONLY);
    ASSERT_GE(stray, 0);
    ASSERT_EQ(fcntl(stray, F_DUPFD, 100), 100);
    auto w = start("descriptors");
    EXPECT_EQ(w->wait(WORKER_LOG).message, "0 1 2 3 4 5 6 7 8 ");
    close(100);
    close(stray);
}

TEST_F(Hostile, CannotKeepItsHostAwakeByBells)
{
    auto w = start("bell");
    w->wait(WORKER_LOG);
    /* A bell rung for nothing is silenced by the second arming. */
    pollfd fd = {worker_fd(w->raw), POLLIN, 0};
    worker_event raw;
    int wakeups = 0;
    for (; wakeups < 10; wakeups++) {
        EXPECT_FALSE(worker_next_event(w->raw, &raw));
        EXPECT_FALSE(worker_arm(w->raw));
        if (poll(&fd, 1, 0) == 0)
            break;
    }
    EXPECT_LT(wakeups, 3);
}

TEST_F(Hostile, CannotEndAStepInTheFuture)
{
    auto w = start("future");
    Event step = w->wait(WORKER_STEP);
    EXPECT_LE(step.raw.begin, step.raw.end);
    EXPECT_LE(step.raw.end, now_ns());
}

TEST_F(Hostile, ThatIsNoWorkerIsReported)
{
    auto w = start("exit 5");
    Event down = await_down(*w);
    EXPECT_EQ(down.message, "exited with code 5");
    EXPECT_EQ(down.raw.status, LIBSCHED_EDEVICELOST);
}

/* ------------------------------------------------------------------- the host's death */

class LonelyHost : public testing::TestWithParam<const char *>
{
};
INSTANTIATE_TEST_SUITE_P(, LonelyHost, testing::Values("exit", "wait", "fork"),
                         [](const auto &kind) { return std::string(kind.param); });

TEST_P(LonelyHost, TakesItsWorkerWithIt)
{
    int in[2], out[2];
    ASSERT_EQ(pipe2(in, O_CLOEXEC), 0);
    ASSERT_EQ(pipe2(out, O_CLOEXEC), 0);
    pid_t host = fork();
    if (host == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        execl(LONELY_HOST_PATH, LONELY_HOST_PATH, GetParam(), nullptr);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    FILE *lines = fdopen(out[0], "r");
    int worker = 0;
    ASSERT_EQ(fscanf(lines, "%d", &worker), 1);
    ASSERT_GT(worker, 0);
    int pidfd = int(syscall(SYS_pidfd_open, worker, 0));
    /* Where the host ended first, its worker may have too. */
    if (pidfd < 0) {
        EXPECT_EQ(errno, ESRCH);
    }
    uint64_t begin = now_ns();
    if (strcmp(GetParam(), "exit") != 0)
        kill(host, SIGKILL);
    pollfd fd = {pidfd, POLLIN, 0};
    if (pidfd >= 0) {
        EXPECT_EQ(poll(&fd, 1, 120000), 1) << "the worker lives on";
    }
    uint64_t took = now_ns() - begin;
    EXPECT_LT(took, UINT64_C(4000000000)) << "ns: a second on a machine that runs it";
    int status;
    EXPECT_EQ(waitpid(host, &status, 0), host);
    close(pidfd);
    close(in[1]);
    fclose(lines);
}

} // namespace
