/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NCCL for ranks that are threads or processes of one machine, over a file that they map. As the
 * real one it never says who is missing, waits for ever where ranks call different things, and
 * tells nobody of an abort; unlike it, sums are added up in the order of the ranks.
 *
 * A call answers at first that it is in progress, as one of a communicator that does not block may.
 */
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <cstring>
#include <memory>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_cuda.h"

namespace
{

constexpr int SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, IN_PROGRESS = 7;
constexpr uint32_t MAX_RANKS = 16;
constexpr uint64_t AREA = UINT64_C(48) << 20; /* of a rank; the file is sparse */

struct call {
    uint32_t what, type, operation, root;
    uint64_t n;
};

struct shared_file {
    std::atomic<uint32_t> joined;
    struct {
        std::atomic<uint64_t> arrived, left;
        call now;
    } ranks[MAX_RANKS];
};

constexpr uint64_t HEADER = UINT64_C(1) << 16;
static_assert(sizeof(shared_file) <= HEADER, "the header is in front of the areas");

struct communicator {
    int rank, n_ranks;
    std::string path;
    shared_file *file;
    unsigned char *areas;
    uint64_t size;
    int device = fake_device();
    int64_t held = 0;          /* of the device's memory */
    uint64_t number = 0;       /* of operations */
    std::atomic<int> looks{0}; /* in progress for so many more */
    std::atomic<int> error{0};
    std::atomic<bool> aborted{false};
    bool finalizing = false;
    ~communicator()
    {
        munmap(file, size);
    }
};

/* What the next communicators are to suffer. */
std::atomic<int> next_error;   /* as their asynchronous error, at the next look */
std::atomic<bool> abort_hangs; /* an abort does not return */
std::atomic<bool> aborting_released;
std::atomic<int> aborts; /* so far */

float wide(const unsigned char *data, uint32_t type, uint64_t i)
{
    float value;
    if (type == 7) {
        memcpy(&value, data + 4 * i, 4);
    } else {
        uint16_t half;
        memcpy(&half, data + 2 * i, 2);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&value, &bits, 4);
    }
    return value;
}

void narrow(unsigned char *data, uint32_t type, uint64_t i, float value)
{
    if (type == 7) {
        memcpy(data + 4 * i, &value, 4);
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t half = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    memcpy(data + 2 * i, &half, 2);
}

uint64_t element(uint32_t type)
{
    return type == 7 ? 4 : type == 1 ? 1 : 2;
}

enum { ALL_REDUCE = 1, BROADCAST, ALL_GATHER, REDUCE_SCATTER };

void finish(const communicator &c, const call &what, unsigned char *to)
{
    const uint64_t size = element(what.type);
    auto area = [&](int r) { return c.areas + (uint64_t)r * AREA; };
    if (what.what == BROADCAST) {
        memmove(to, area((int)what.root), what.n * size);
        return;
    }
    if (what.what == ALL_GATHER) {
        for (int r = 0; r < c.n_ranks; r++)
            memcpy(to + (uint64_t)r * what.n * size, area(r), what.n * size);
        return;
    }
    const uint64_t first = what.what == REDUCE_SCATTER ? (uint64_t)c.rank * what.n : 0;
    for (uint64_t i = 0; i < what.n; i++) {
        float sum = wide(area(0), what.type, first + i);
        for (int r = 1; r < c.n_ranks; r++) {
            const float more = wide(area(r), what.type, first + i);
            if (what.operation == 2)
                sum = more > sum || std::isnan(more) ? more : sum;
            else
                sum += more;
        }
        narrow(to, what.type, i, sum);
    }
}

int enqueue(communicator *raw, call what, const void *from, void *to, uint64_t bytes,
            cudaStream_t stream)
{
    auto &c = *raw;
    const uint64_t number = ++c.number;
    auto begun = std::make_shared<bool>(false);
    if (bytes > AREA)
        return INVALID_ARGUMENT;
    cudaError_t code = fake_push(stream, [=, &c] {
        auto &own = c.file->ranks[c.rank];
        if (c.aborted)
            return true;
        if (!*begun) {
            for (int r = 0; r < c.n_ranks; r++)
                if (c.file->ranks[r].left < number - 1)
                    return false;
            if (what.what != BROADCAST || (uint32_t)c.rank == what.root)
                memcpy(c.areas + (uint64_t)c.rank * AREA, from, bytes);
            own.now = what;
            own.arrived = number;
            *begun = true;
        }
        for (int r = 0; r < c.n_ranks; r++) {
            if (c.file->ranks[r].arrived < number)
                return false;
            const call other = c.file->ranks[r].now;
            if (memcmp(&other, &what, sizeof(other)) != 0)
                return false;
        }
        finish(c, what, static_cast<unsigned char *>(to));
        own.left = number;
        return true;
    });
    if (code != cudaSuccess)
        return 1;
    c.looks = 2;
    return IN_PROGRESS;
}

} // namespace

/* For tests. */
extern "C" void fake_nccl_fail(int code)
{
    next_error = code;
}

extern "C" int fake_nccl_aborts()
{
    return aborts;
}

extern "C" void fake_nccl_abort_hangs(int yes)
{
    abort_hangs = yes != 0;
    aborting_released = yes == 0;
}

struct fake_id {
    char bytes[128];
};

struct fake_config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

#define CALLED                            \
    if (int code = fake_called(__func__)) \
        return code < 100 ? code : 1;

extern "C" {

int ncclGetVersion(int *version)
{
    const char *given = getenv("FAKE_NCCL_VERSION");
    *version = given != nullptr ? atoi(given) : 22809;
    return SUCCESS;
}

const char *ncclGetErrorString(int result)
{
    return result == 6 ? "remote process exited or there was a network error" : "a fake's error";
}

int ncclGetUniqueId(fake_id *id)
{
    CALLED
    /* One that is killed leaves its file behind: a folder that goes with the test takes it along.
     */
    const char *own = getenv("FAKE_NCCL_FOLDER"), *folder = own != nullptr ? own : getenv("TMPDIR");
    std::string path = std::string(folder != nullptr ? folder : "/tmp") + "/fake-nccl-XXXXXX";
    if (path.size() >= sizeof(id->bytes))
        return SYSTEM_ERROR;
    int fd = mkstemp(path.data());
    if (fd < 0 || ftruncate(fd, (off_t)(HEADER + MAX_RANKS * AREA)) < 0)
        return SYSTEM_ERROR;
    close(fd);
    memset(id, 0, sizeof(*id));
    memcpy(id->bytes, path.c_str(), path.size());
    return SUCCESS;
}

int ncclCommInitRankConfig(communicator **out, int n_ranks, fake_id id, int rank,
                           fake_config *config)
{
    CALLED
    if (const char *count = getenv("FAKE_NCCL_COUNT"))
        std::ofstream(count, std::ios::app) << "one\n";
    if (config->magic != 0xcafebeef || config->blocking != 0 || n_ranks > (int)MAX_RANKS)
        return INVALID_ARGUMENT;
    int fd = open(id.bytes, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return SYSTEM_ERROR;
    const uint64_t size = HEADER + (uint64_t)n_ranks * AREA;
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    close(fd);
    if (memory == MAP_FAILED)
        return SYSTEM_ERROR;
    auto *c = fake_make<communicator>();
    c->rank = rank;
    c->n_ranks = n_ranks;
    c->path = id.bytes;
    c->file = static_cast<shared_file *>(memory);
    c->areas = static_cast<unsigned char *>(memory) + HEADER;
    c->size = size;
    /* As the real one holds buffers for each peer. */
    if (const char *holds = getenv("FAKE_NCCL_MEMORY")) {
        c->held = atoll(holds);
        if (!fake_hold(c->device, c->held)) {
            delete c;
            return 1;
        }
    }
    c->file->joined++;
    fake_live(1);
    *out = c;
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(communicator *c, int *result)
{
    CALLED
    if (int code = next_error.exchange(0))
        c->error = code;
    if (c->error != 0)
        *result = c->error;
    else if ((int)c->file->joined < c->n_ranks)
        *result = IN_PROGRESS;
    else if (c->looks > 0)
        *result = --c->looks >= 0 ? IN_PROGRESS : SUCCESS;
    else
        *result = SUCCESS;
    if (*result == SUCCESS && c->rank == 0)
        unlink(c->path.c_str());
    return SUCCESS;
}

int ncclCommFinalize(communicator *c)
{
    CALLED
    c->looks = 1;
    return IN_PROGRESS;
}

int ncclCommDestroy(communicator *c)
{
    fake_live(-1);
    fake_hold(c->device, -c->held);
    /* Tasks of it may be left in a stream that nobody waits for. */
    c->aborted = true;
    delete c;
    return SUCCESS;
}

int ncclCommAbort(communicator *c)
{
    aborts++;
    fake_live(-1);
    fake_hold(c->device, -c->held);
    while (abort_hangs && !aborting_released)
        usleep(1000);
    unlink(c->path.c_str());
    c->aborted = true;
    /* Kept, since its tasks still look at it. */
    return SUCCESS;
}

int ncclAllReduce(const void *from, void *to, size_t n, int type, int operation, communicator *c,
                  cudaStream_t stream)
{
    CALLED
    return enqueue(c, {ALL_REDUCE, (uint32_t)type, (uint32_t)operation, 0, n}, from, to,
                   n * element((uint32_t)type), stream);
}

int ncclBroadcast(const void *from, void *to, size_t n, int type, int root, communicator *c,
                  cudaStream_t stream)
{
    CALLED
    return enqueue(c, {BROADCAST, (uint32_t)type, 0, (uint32_t)root, n}, from, to,
                   n * element((uint32_t)type), stream);
}

int ncclAllGather(const void *from, void *to, size_t n, int type, communicator *c,
                  cudaStream_t stream)
{
    CALLED
    return enqueue(c, {ALL_GATHER, (uint32_t)type, 0, 0, n}, from, to, n * element((uint32_t)type),
                   stream);
}

int ncclReduceScatter(const void *from, void *to, size_t n, int type, int operation,
                      communicator *c, cudaStream_t stream)
{
    CALLED
    return enqueue(c, {REDUCE_SCATTER, (uint32_t)type, (uint32_t)operation, 0, n}, from, to,
                   n * (uint64_t)c->n_ranks * element((uint32_t)type), stream);
}

} // extern "C"
