// The main loop of a matrix product: stages are copied to shared memory while earlier ones are multiplied.
//
// A stage s is copied by `load` into one of three slots, two stages ahead:
//
//   meet(s)           waits for this thread's copies of s, then for everyone: now all of s is there, and
//                     everyone has read the last of s - 1, so that
//     load(s + 2)     may overwrite the slot of s - 1
//     begin(s)        reads the first half of s into registers
//   second_half(s-1)  multiplies what was read before the barrier
//   first_half(s)     reads the second half of s, multiplies the first
//
// Every read of s so comes before the barrier of s + 1, and what is multiplied was read a half earlier.
#pragma once

#include "tile.cuh"

namespace faceattr::gpu {

// Where a stage lies: bytes from the start of shared memory to its rows, how many vectors deep it is, and the
// slot of the window that it is the first to read, or -1.
struct Stage {
  int rows, vectors, new_window;
};

// Multiplies what `loader` brings. The columns of a stage lie in one of kStages slots of Loader::kSlotBytes,
// Loader::kColumnsAt behind its start. loader.load(slot) starts the copies of the next stage,
// loader.arrived(stage, slot) sees what this thread has copied, loader.used(rows) what all have.
template <typename Tile, Layout kRowLayout, Layout kColumnLayout, typename Loader, typename Warp>
__device__ void multiply_tiles(Loader& loader, int stages, Warp& warp) {
  constexpr bool kRowsInner = kRowLayout == Layout::kDepthInner;
  constexpr bool kColumnsInner = kColumnLayout == Layout::kDepthInner;
  constexpr int kElement = sizeof(typename Tile::Element);
  static_assert(Tile::kStages == 3, "two stages are on their way");
  unsigned char* shared = shared_memory();
  const int warp_rows = kRowsInner ? 0 : threadIdx.x / 32 / Tile::kWarpsAcross * Warp::kRows * kElement;
  const int warp_columns = threadIdx.x / 32 % Tile::kWarpsAcross * Warp::kColumns *
                               (kColumnsInner ? Warp::kColumnLine : kElement) +
                           Loader::kColumnsAt;
  Stage next{}, after_next{};
  if (stages > 0) next = loader.load(0);
  copy_async_commit();
  if (stages > 1) after_next = loader.load(1);
  copy_async_commit();
  int slot = 0, free_slot = 2, vectors_before = 0;
  for (int s = 0; s < stages; ++s) {
    const Stage stage = next;
    const unsigned char* rows = shared + stage.rows + warp_rows;
    const unsigned char* columns = shared + slot * Loader::kSlotBytes + warp_columns;
    copy_async_wait<1>();
    loader.arrived(stage, slot);
    __syncthreads();  // everyone's copies have arrived, and everyone is done with what is filled next
    next = after_next;
    if (s + 2 < stages) after_next = loader.load(free_slot);
    copy_async_commit();
    loader.used(shared + stage.rows);
    __syncwarp();  // threads of a warp copy different numbers of lines; they read together
    warp.begin(rows, columns);
    warp.second_half(vectors_before);
    warp.first_half(rows, columns, stage.vectors);
    vectors_before = stage.vectors;
    free_slot = slot;
    slot = slot == 2 ? 0 : slot + 1;
  }
  warp.second_half(vectors_before);
}

}  // namespace faceattr::gpu
