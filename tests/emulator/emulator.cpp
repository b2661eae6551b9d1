// The emulator's scheduler. Compiled without sanitizers: its own bookkeeping is shared between fibres by
// design.
#include "emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

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

enum class State { kReady, kBlockBarrier, kWarp, kTurn, kDone };

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
  bool had_turn;
  PendingCopies copies;
};

struct Warp {
  unsigned arrived;
  char order[2];  // addresses that stand for its barriers, even and odd
};

// A launch, and the block of it that runs. Two exist at a time: one may start before the other is done.
struct Grid {
  Fibre fibres[kMostThreads];
  Warp warps[kMostThreads / 32];
  char block_order[2];
  int64_t blocks, block;
  int thread_count, waiting, done;
  size_t shared_bytes;
  unsigned char* shared_memory;
  bool may_start_early, has_turn;
  std::function<void()> kernel;
};

Grid grids[2];
Grid *grid, *unfinished;  // that runs, that is not done
char host_order, grid_order;
void* scheduler_jump[5];
void* scheduler_fibre;
int current;

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
  pending_copies = &grid->fibres[thread].copies;
  if (__builtin_setjmp(scheduler_jump) == 0) enter(grid->fibres[thread]);
}

__attribute__((noinline)) void leave() {
  __tsan_switch_to_fiber(scheduler_fibre, __tsan_switch_to_fiber_no_sync);
  jump_to(scheduler_jump);
}

__attribute__((noinline)) void pause() {
  if (__builtin_setjmp(grid->fibres[current].jump) == 0) leave();
}

void release(State state) {
  for (int i = 0; i < grid->thread_count; ++i)
    if (grid->fibres[i].state == state) grid->fibres[i].state = State::kReady;
}

void release_block_barrier() {
  grid->waiting = 0;
  release(State::kBlockBarrier);
}

void fibre_main() {
  __tsan_acquire(&host_order);
  grid->kernel();
  __tsan_release(&grid_order);
  Fibre& fibre = grid->fibres[current];
  if (grid->may_start_early && grid->block == 0 && !fibre.had_turn)
    fail("a thread of the first block ends without having awaited its turn");
  fibre.state = State::kDone;
  ++grid->done;
  if (grid->waiting > 0 && grid->waiting + grid->done == grid->thread_count) release_block_barrier();
  leave();
}

void begin_block() {
  std::fill_n(grid->shared_memory, grid->shared_bytes, 0xff);
  grid->waiting = grid->done = 0;
  for (int i = 0; i < grid->thread_count; ++i) {
    Fibre& fibre = grid->fibres[i];
    fibre.state = State::kReady;
    fibre.started = fibre.had_turn = false;
    fibre.block_barriers = fibre.warp_barriers = fibre.copies.count = fibre.copies.groups = 0;
    getcontext(&fibre.start);
    fibre.start.uc_stack.ss_sp = fibre.stack;
    fibre.start.uc_stack.ss_size = kStackBytes;
    fibre.start.uc_link = nullptr;
    makecontext(&fibre.start, fibre_main, 0);
  }
  for (auto& warp : grid->warps) warp.arrived = 0;
}

// Until the block is done or, before the launch's turn, until all of its threads wait.
void run_block() {
  block_index = {static_cast<unsigned>(grid->block), 0, 0};
  block_size = {static_cast<unsigned>(grid->thread_count), 1, 1};
  grid_size = {static_cast<unsigned>(grid->blocks), 1, 1};
  block_shared_memory = grid->shared_memory;
  if (grid->has_turn) release(State::kTurn);
  while (grid->done < grid->thread_count) {
    bool progress = false;
    // Blocks alternate between the two orders, so that a result that depends on the order shows.
    for (int k = 0; k < grid->thread_count; ++k) {
      const int i = block_index.x % 2 ? grid->thread_count - 1 - k : k;
      if (grid->fibres[i].state != State::kReady) continue;
      progress = true;
      resume(i);
    }
    if (progress) continue;
    if (!grid->has_turn) return;
    fail("threads wait for others that never come (a barrier or a warp operation in divergent code)");
  }
}

// The blocks that are left of the launch that is not done.
void finish() {
  if (!unfinished) return;
  grid = std::exchange(unfinished, nullptr);
  grid->has_turn = true;
  for (; grid->block < grid->blocks; ++grid->block) {
    if (grid->block > 0 || !grid->may_start_early) begin_block();
    __tsan_release(&host_order);
    run_block();
    __tsan_acquire(&grid_order);
  }
  std::free(grid->shared_memory);
  grid->kernel = nullptr;
}

}  // namespace

void fail(const char* message) {
  std::fprintf(stderr, "emulator: block %u, thread %u: %s\n", block_index.x, thread_index.x, message);
  std::fflush(stderr);
  std::_Exit(3);
}

void begin(int64_t blocks, int threads, size_t shared_bytes, bool may_start_early,
           std::function<void()> kernel) {
  if (threads < 1 || threads > kMostThreads) fail("a block has 1 to 1024 threads");
  if (blocks < 1 || blocks > INT32_MAX) fail("a grid has 1 to 2^31 - 1 blocks");
  if (shared_bytes > most_shared_bytes) fail("a block asks for more shared memory than it may have");
  scheduler_fibre = __tsan_get_current_fiber();
  if (!may_start_early) finish();
  grid = unfinished == grids ? grids + 1 : grids;
  for (int i = 0; i < threads; ++i) {
    if (grid->fibres[i].stack) continue;
    grid->fibres[i].stack = std::malloc(kStackBytes);
    grid->fibres[i].sanitizer_fibre = __tsan_create_fiber(0);
  }
  grid->shared_memory = static_cast<unsigned char*>(std::aligned_alloc(16, (shared_bytes + 15) / 16 * 16));
  grid->shared_bytes = shared_bytes;
  grid->blocks = blocks;
  grid->block = 0;
  grid->thread_count = threads;
  grid->may_start_early = may_start_early;
  grid->has_turn = false;
  grid->kernel = std::move(kernel);
  Grid* next = grid;
  if (may_start_early) {
    begin_block();
    __tsan_release(&host_order);
    run_block();
    finish();
  }
  unfinished = next;
}

void synchronize() {
  finish();
}

void wait_for_launch_before() {
  Fibre& fibre = grid->fibres[current];
  if (!grid->has_turn) {
    fibre.state = State::kTurn;
    pause();
  }
  fibre.had_turn = true;
  __tsan_acquire(&grid_order);
}

void let_next_launch_start() {
  if (!grid->fibres[current].had_turn) fail("the next launch may start before this one's turn");
}

void block_barrier() {
  Fibre& fibre = grid->fibres[current];
  char* order = &grid->block_order[fibre.block_barriers++ % 2];
  __tsan_release(order);
  if (++grid->waiting + grid->done == grid->thread_count) {
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
  Warp& warp = grid->warps[current / 32];
  Fibre& fibre = grid->fibres[current];
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
    Fibre& other = grid->fibres[warp_first + i];
    if (other.mask != mask) fail("lanes of one warp operation name different masks");
    lanes[i] = other.own;
    other.state = State::kReady;
  }
  warp.arrived &= ~mask;
  operation(lanes, mask);
}

void warp_barrier(unsigned mask) {
  char* order = &grid->warps[current / 32].order[grid->fibres[current].warp_barriers++ % 2];
  __tsan_release(order);
  collective(mask, nullptr, [](void**, unsigned) {});
  __tsan_acquire(order);
}

}  // namespace emulator
