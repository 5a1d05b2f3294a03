/* SPDX-License-Identifier: Apache-2.0 */
#include "emulator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator
{

thread_local const thread_state *current;

namespace
{

constexpr size_t STACK = 256 << 10;
constexpr size_t SLOT = 64;

order chosen_order = FORWARD;
uint32_t chosen_seed = 1;

[[noreturn]] void die(const char *what)
{
    fprintf(stderr, "a kernel is wrong: %s\n", what);
    abort();
}

/* ------------------------------------------------------------------------------------ switching */

#if defined(__x86_64__)
/* Saves what a function has to keep, and goes on where the other one was saved. */
extern "C" void emulator_switch(void **from, void *to);
asm(".text\n"
    ".type emulator_switch, @function\n"
    "emulator_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size emulator_switch, . - emulator_switch\n");

struct place {
    void *sp = nullptr;
};

void go(place &from, place &to)
{
    emulator_switch(&from.sp, to.sp);
}

void prepare(place &at, unsigned char *stack, void (*entry)())
{
    /* As if it had been switched away from just before `entry`, with the stack as a call leaves
     * it: an address to return to at a multiple of 16 less 8. */
    auto **top = reinterpret_cast<void **>(stack + STACK);
    *--top = nullptr;
    memcpy(--top, &entry, sizeof(entry));
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    at.sp = top;
}
#else
struct place {
    ucontext_t context;
};

void go(place &from, place &to)
{
    swapcontext(&from.context, &to.context);
}

void prepare(place &at, unsigned char *stack, void (*entry)())
{
    getcontext(&at.context);
    at.context.uc_stack.ss_sp = stack;
    at.context.uc_stack.ss_size = STACK;
    at.context.uc_link = nullptr;
    makecontext(&at.context, entry, 0);
}
#endif

/* AddressSanitizer keeps account of stacks. */
struct stack_note {
    void *fake = nullptr;
    const void *bottom = nullptr;
    size_t size = 0;
};

void before_switch([[maybe_unused]] stack_note *own, [[maybe_unused]] const void *bottom,
                   [[maybe_unused]] size_t size)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(own != nullptr ? &own->fake : nullptr, bottom, size);
#endif
}

void after_switch([[maybe_unused]] stack_note *own, [[maybe_unused]] const void **bottom,
                  [[maybe_unused]] size_t *size)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(own->fake, bottom, size);
#endif
}

/* ---------------------------------------------------------------------------------- coroutines */

struct pending_copy {
    void *to;
    const void *from;
    bool valid;
};

struct coroutine {
    thread_state state;
    place at;
    stack_note note;
    unsigned char *stack;
    bool done, waiting_block, waiting_warp;
    uint64_t generation; /* of what it waits for */
    std::vector<pending_copy> open;
    std::deque<std::vector<pending_copy>> groups;
};

struct warp {
    unsigned arrived = 0, size = 0;
    int what = 0;
    uint64_t generation = 0;
    unsigned char slots[2][32 * SLOT];
};

struct block_state {
    std::vector<coroutine> threads;
    std::vector<warp> warps;
    unsigned arrived = 0, live = 0;
    uint64_t generation = 0;
    const std::function<void()> *kernel = nullptr;
    place host;
    stack_note host_note;
    coroutine *running = nullptr;
};

thread_local block_state *active;

/* Kept for the next block. */
struct stacks {
    std::vector<unsigned char *> free;
    ~stacks()
    {
        for (auto *s : free)
            munmap(s, STACK);
    }
    unsigned char *take()
    {
        unsigned char *s;
        if (free.empty()) {
            void *memory = mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (memory == MAP_FAILED)
                die("no memory for a stack");
            return static_cast<unsigned char *>(memory);
        }
        s = free.back();
        free.pop_back();
        return s;
    }
    void give(unsigned char *s)
    {
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(s, STACK);
#endif
        free.push_back(s);
    }
};
thread_local stacks pool;

/* Back to the scheduler. */
void yield()
{
    coroutine *own = active->running;
    before_switch(own->done ? nullptr : &own->note, active->host_note.bottom,
                  active->host_note.size);
    go(own->at, active->host);
    after_switch(&own->note, &active->host_note.bottom, &active->host_note.size);
}

void entry()
{
    coroutine *own = active->running;
    after_switch(&own->note, &active->host_note.bottom, &active->host_note.size);
    (*active->kernel)();
    own->done = true;
    yield();
    die("a thread that has ended goes on");
}

void resume(coroutine &c)
{
    active->running = &c;
    current = &c.state;
    before_switch(&active->host_note, c.stack, STACK);
    go(active->host, c.at);
    const void *bottom;
    size_t size;
    after_switch(&active->host_note, &bottom, &size);
    current = nullptr;
}

bool can_run(const coroutine &c, const warp &w)
{
    if (c.done)
        return false;
    if (c.waiting_block)
        return active->generation != c.generation;
    if (c.waiting_warp)
        return w.generation != c.generation;
    return true;
}

void release_block_if_complete()
{
    if (active->arrived > 0 && active->arrived == active->live) {
        active->arrived = 0;
        active->generation++;
    }
}

void run_block(block_state &block)
{
    std::vector<size_t> line(block.threads.size());
    std::mt19937 random(chosen_seed);
    std::iota(line.begin(), line.end(), 0);
    if (chosen_order == BACKWARD)
        std::reverse(line.begin(), line.end());
    while (block.live > 0) {
        bool progress = false;
        if (chosen_order == SHUFFLED)
            std::shuffle(line.begin(), line.end(), random);
        for (size_t i : line) {
            coroutine &c = block.threads[i];
            if (!can_run(c, block.warps[i / 32]))
                continue;
            c.waiting_block = c.waiting_warp = false;
            progress = true;
            resume(c);
            if (c.done) {
                block.live--;
                release_block_if_complete();
            }
        }
        if (!progress)
            die("its threads wait for each other at different barriers, or one has ended before");
    }
}

} // namespace

void set_order(order how, uint32_t seed)
{
    chosen_order = how;
    chosen_seed = seed;
}

void run(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel)
{
    const size_t n = (size_t)block.x * block.y * block.z;
    std::vector<uint64_t> line((size_t)grid.x * grid.y * grid.z);
    block_state state;
    std::iota(line.begin(), line.end(), 0);
    if (chosen_order == BACKWARD)
        std::reverse(line.begin(), line.end());
    if (chosen_order == SHUFFLED)
        std::shuffle(line.begin(), line.end(), std::mt19937(chosen_seed));
    if (n % 32 != 0)
        die("a block is not of whole warps");
    state.threads.resize(n);
    state.warps.resize(n / 32);
    state.kernel = &kernel;
    block_state *outer = active;
    active = &state;
    for (coroutine &c : state.threads)
        c.stack = pool.take();
    for (uint64_t number : line) {
        /* malloc() is aligned to 16, as shared memory is. */
        std::unique_ptr<void, void (*)(void *)> memory(malloc(shared > 0 ? shared : 1), free);
        memset(memory.get(), 0xff, shared);
        state.live = (unsigned)n;
        state.arrived = 0;
        for (size_t i = 0; i < n; i++) {
            coroutine &c = state.threads[i];
            c.state.thread = dim3((unsigned)i, 0, 0);
            c.state.block = dim3((unsigned)(number % grid.x), (unsigned)(number / grid.x), 0);
            c.state.grid = grid;
            c.state.shared = memory.get();
            c.done = c.waiting_block = c.waiting_warp = false;
            c.open.clear();
            c.groups.clear();
            c.note = {};
            prepare(c.at, c.stack, entry);
        }
        for (warp &w : state.warps) {
            w.arrived = 0;
        }
        run_block(state);
        for (coroutine &c : state.threads)
            if (!c.open.empty() || std::any_of(c.groups.begin(), c.groups.end(),
                                               [](const auto &g) { return !g.empty(); }))
                die("it ends before what it copies has arrived");
    }
    for (coroutine &c : state.threads)
        pool.give(c.stack);
    active = outer;
}

void block_barrier()
{
    coroutine *own = active->running;
    own->waiting_block = true;
    own->generation = active->generation;
    active->arrived++;
    release_block_if_complete();
    yield();
}

const unsigned char *exchange(int what, const void *own, size_t size)
{
    coroutine *self = active->running;
    warp &w = active->warps[self->state.thread.x / 32];
    unsigned char *slots = w.slots[w.generation % 2];
    if (w.arrived == 0) {
        w.what = what;
        w.size = (unsigned)size;
    } else if (w.what != what || w.size != size) {
        die("the lanes of a warp are at different operations");
    }
    if (size > 0)
        memcpy(slots + self->state.thread.x % 32 * size, own, size);
    self->waiting_warp = true;
    self->generation = w.generation;
    if (++w.arrived == 32) {
        w.arrived = 0;
        w.generation++;
    }
    yield();
    return slots;
}

void copy_later(void *to, const void *from, bool valid)
{
    if ((uintptr_t)to % 16 != 0 || (uintptr_t)from % 16 != 0)
        die("a copy of 16 bytes is not aligned to 16");
    active->running->open.push_back({to, from, valid});
}

void copies_commit()
{
    active->running->groups.push_back(std::move(active->running->open));
    active->running->open.clear();
}

void copies_wait(int left)
{
    auto &groups = active->running->groups;
    while (groups.size() > (size_t)left) {
        for (const pending_copy &c : groups.front()) {
            if (c.valid)
                memcpy(c.to, c.from, 16);
            else
                memset(c.to, 0, 16);
        }
        groups.pop_front();
    }
}

} // namespace emulator
