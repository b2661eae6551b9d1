// The emulator's scheduler. Compiled without sanitizers: its own bookkeeping is shared between fibres by
// design.
#include "emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#ifdef EMULATOR_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#else
namespace {
void* __tsan_get_current_fiber() {
  return nullptr;
}
void* __tsan_create_fiber(unsigned) {
  return nullptr;
}
void __tsan_switch_to_fiber(void*, unsigned) {}
void __tsan_acquire(void*) {}
void __tsan_release(void*) {}
const unsigned __tsan_switch_to_fiber_no_sync = 1;
}  // namespace
#endif

namespace emulator {

Index thread_index, block_index, block_size, grid_size;
PendingCopies* pending_copies;
size_t most_shared_bytes;
unsigned char* block_shared_memory;

namespace {

constexpr int kMostThreads = 1024;
constexpr size_t kStackBytes = 512 * 1024;

enum class State { kReady, kBlockBarrier, kWarp, kDone };

struct Fibre {
  ucontext_t start;
  void* jump[5];
  bool started;
  void* stack;
  void* sanitizer_fibre;
  State state;
  unsigned mask;  // of the lanes it waits for
  void* own;      // what it brings to the collective
  int block_barriers, warp_barriers;
  PendingCopies copies;
};

struct Warp {
  unsigned arrived;
  char order[2];  // addresses that stand for its barriers, even and odd
};

Fibre fibres[kMostThreads];
Warp warps[kMostThreads / 32];
char block_order[2], grid_order;
ucontext_t scheduler;
void* scheduler_jump[5];
void* scheduler_fibre;
int current, thread_count, waiting, done;
void (*grid_entry)(void*);
void* grid_arguments;

// Jumps instead of swapcontext, which asks the kernel twice a switch.
__attribute__((noinline)) void jump_to(void** buffer) {
  __builtin_longjmp(buffer, 1);
}

__attribute__((noinline)) void enter(Fibre& fibre) {
  __tsan_switch_to_fiber(fibre.sanitizer_fibre, __tsan_switch_to_fiber_no_sync);
  if (fibre.started) jump_to(fibre.jump);
  fibre.started = true;
  setcontext(&fibre.start);
}

__attribute__((noinline)) void resume(int thread) {
  current = thread;
  thread_index = {static_cast<unsigned>(thread), 0, 0};
  pending_copies = &fibres[thread].copies;
  if (__builtin_setjmp(scheduler_jump) == 0) enter(fibres[thread]);
}

__attribute__((noinline)) void leave() {
  __tsan_switch_to_fiber(scheduler_fibre, __tsan_switch_to_fiber_no_sync);
  jump_to(scheduler_jump);
}

__attribute__((noinline)) void pause() {
  if (__builtin_setjmp(fibres[current].jump) == 0) leave();
}

void release_block_barrier() {
  waiting = 0;
  for (int i = 0; i < thread_count; ++i)
    if (fibres[i].state == State::kBlockBarrier) fibres[i].state = State::kReady;
}

void fibre_main() {
  __tsan_acquire(&grid_order);
  grid_entry(grid_arguments);
  __tsan_release(&grid_order);
  fibres[current].state = State::kDone;
  ++done;
  if (waiting > 0 && waiting + done == thread_count) release_block_barrier();
  leave();
}

void run_block(size_t shared_bytes) {
  std::fill_n(block_shared_memory, shared_bytes, 0xff);
  waiting = done = 0;
  for (int i = 0; i < thread_count; ++i) {
    Fibre& fibre = fibres[i];
    fibre.state = State::kReady;
    fibre.started = false;
    fibre.block_barriers = fibre.warp_barriers = fibre.copies.count = fibre.copies.groups = 0;
    getcontext(&fibre.start);
    fibre.start.uc_stack.ss_sp = fibre.stack;
    fibre.start.uc_stack.ss_size = kStackBytes;
    fibre.start.uc_link = nullptr;
    makecontext(&fibre.start, fibre_main, 0);
  }
  for (auto& warp : warps) warp.arrived = 0;
  while (done < thread_count) {
    bool progress = false;
    // Blocks alternate between the two orders, so that a result that depends on the order shows.
    for (int k = 0; k < thread_count; ++k) {
      const int i = block_index.x % 2 ? thread_count - 1 - k : k;
      if (fibres[i].state != State::kReady) continue;
      progress = true;
      resume(i);
    }
    if (!progress)
      fail("threads wait for others that never come (a barrier or a warp operation in divergent code)");
  }
}

}  // namespace

void fail(const char* message) {
  std::fprintf(stderr, "emulator: block %u, thread %u: %s\n", block_index.x, thread_index.x, message);
  std::fflush(stderr);
  std::_Exit(3);
}

void run(int64_t blocks, int threads, size_t shared_bytes, void (*entry)(void*), void* arguments) {
  if (threads < 1 || threads > kMostThreads) fail("a block has 1 to 1024 threads");
  if (blocks < 1 || blocks > INT32_MAX) fail("a grid has 1 to 2^31 - 1 blocks");
  if (shared_bytes > most_shared_bytes) fail("a block asks for more shared memory than it may have");
  scheduler_fibre = __tsan_get_current_fiber();
  for (int i = 0; i < threads; ++i) {
    if (fibres[i].stack) continue;
    fibres[i].stack = std::malloc(kStackBytes);
    fibres[i].sanitizer_fibre = __tsan_create_fiber(0);
  }
  block_shared_memory = static_cast<unsigned char*>(std::aligned_alloc(16, (shared_bytes + 15) / 16 * 16));
  thread_count = threads;
  grid_entry = entry;
  grid_arguments = arguments;
  block_size = {static_cast<unsigned>(threads), 1, 1};
  grid_size = {static_cast<unsigned>(blocks), 1, 1};
  for (int64_t b = 0; b < blocks; ++b) {
    block_index = {static_cast<unsigned>(b), 0, 0};
    __tsan_release(&grid_order);
    run_block(shared_bytes);
    __tsan_acquire(&grid_order);
  }
  std::free(block_shared_memory);
}

void block_barrier() {
  Fibre& fibre = fibres[current];
  char* order = &block_order[fibre.block_barriers++ % 2];
  __tsan_release(order);
  if (++waiting + done == thread_count) {
    fibre.state = State::kBlockBarrier;
    release_block_barrier();
  } else {
    fibre.state = State::kBlockBarrier;
    pause();
  }
  __tsan_acquire(order);
}

void collective(unsigned mask, void* own, void (*operation)(void** lanes, unsigned mask)) {
  const int warp_first = current / 32 * 32, own_lane = current % 32;
  Warp& warp = warps[current / 32];
  Fibre& fibre = fibres[current];
  if (!(mask >> own_lane & 1)) fail("a lane takes part in a warp operation whose mask leaves it out");
  fibre.mask = mask;
  fibre.own = own;
  warp.arrived |= 1u << own_lane;
  if ((warp.arrived & mask) != mask) {
    fibre.state = State::kWarp;
    pause();
    return;
  }
  void* lanes[32] = {};
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    if (fibres[warp_first + i].mask != mask) fail("lanes of one warp operation name different masks");
    lanes[i] = fibres[warp_first + i].own;
    fibres[warp_first + i].state = State::kReady;
  }
  warp.arrived &= ~mask;
  operation(lanes, mask);
}

void warp_barrier(unsigned mask) {
  char* order = &warps[current / 32].order[fibres[current].warp_barriers++ % 2];
  __tsan_release(order);
  collective(mask, nullptr, [](void**, unsigned) {});
  __tsan_acquire(order);
}

}  // namespace emulator
