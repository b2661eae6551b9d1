// Density peaks on the GPU: a thread a position looks through square tiles of the map, ring by ring, and
// skips those whose maximum is no higher than itself. Exact, and bit for bit what the CPU gives: the sum of
// squares is an integer, its root is taken in float64.
#pragma once

#include "../cuda/device.cuh"

namespace faceattr::gpu {

constexpr int kPeakTile = 8, kPeakThreads = 128;

struct PeakMaps {
  int64_t maps, height, width, tiles_y, tiles_x;
};

// Highest density of each tile, -inf where all are NaN; a warp a tile.
template <typename T>
__global__ void __launch_bounds__(kPeakThreads, 12)
    tile_maxima(const __grid_constant__ PeakMaps m, const T* density, accumulate_t<T>* maxima,
                int64_t first_block) {
  using Value = accumulate_t<T>;
  const int64_t tile = (first_block + blockIdx.x) * (kPeakThreads / 32) + threadIdx.x / 32;
  int64_t map = tile;
  const int64_t left = take(map, m.tiles_x) * kPeakTile, top = take(map, m.tiles_y) * kPeakTile;
  await_turn();
  if (map >= m.maps) return;
  Value highest = -INFINITY;
  for (int k = threadIdx.x % 32; k < kPeakTile * kPeakTile; k += 32) {
    const int64_t y = top + k / kPeakTile, x = left + k % kPeakTile;
    if (y >= m.height || x >= m.width) continue;
    const Value value = widen(density[(map * m.height + y) * m.width + x]);
    if (value > highest) highest = value;
  }
  for (int distance = 16; distance > 0; distance /= 2)
    highest = max(highest, __shfl_xor_sync(0xffffffffu, highest, distance));
  if (threadIdx.x % 32 == 0) maxima[tile] = highest;
}

// Highest tile of each map; a warp a map.
template <typename Value>
__global__ void __launch_bounds__(kPeakThreads, 12)
    map_maxima(const __grid_constant__ PeakMaps m, const Value* maxima, Value* highest_of_map,
               int64_t first_block) {
  const int64_t map = (first_block + blockIdx.x) * (kPeakThreads / 32) + threadIdx.x / 32;
  await_turn();
  if (map >= m.maps) return;
  const int64_t tiles = m.tiles_y * m.tiles_x;
  Value highest = -INFINITY;
  for (int64_t k = threadIdx.x % 32; k < tiles; k += 32) highest = max(highest, maxima[map * tiles + k]);
  for (int distance = 16; distance > 0; distance /= 2)
    highest = max(highest, __shfl_xor_sync(0xffffffffu, highest, distance));
  if (threadIdx.x % 32 == 0) highest_of_map[map] = highest;
}

// Nearest higher position so far.
struct Nearest {
  int64_t squared = INT64_MAX, index = -1;

  __device__ void offer(int64_t other_squared, int64_t other_index) {
    if (other_squared > squared || (other_squared == squared && other_index > index)) return;
    squared = other_squared;
    index = other_index;
  }
};

// From a position to the nearest of a tile, along one axis.
__device__ inline int64_t gap(int64_t position, int64_t tile) {
  const int64_t first = tile * kPeakTile, last = first + kPeakTile - 1;
  return position < first ? first - position : position > last ? position - last : 0;
}

template <typename Value, typename T>
__device__ void search_tile(const PeakMaps& m, const T* density, Value own, int64_t y, int64_t x,
                            int64_t tile_y, int64_t tile_x, Nearest& nearest) {
  const int64_t bottom = min((tile_y + 1) * kPeakTile, m.height),
                right = min((tile_x + 1) * kPeakTile, m.width);
  for (int64_t v = tile_y * kPeakTile; v < bottom; ++v) {
    if ((v - y) * (v - y) > nearest.squared) continue;
    for (int64_t u = tile_x * kPeakTile; u < right; ++u)
      if (widen(density[v * m.width + u]) > own)
        nearest.offer((v - y) * (v - y) + (u - x) * (u - x), v * m.width + u);
  }
}

template <typename T>
__global__ void __launch_bounds__(kPeakThreads, 6)
    find_parents(const __grid_constant__ PeakMaps m, const T* densities, const accumulate_t<T>* all_maxima,
                 const accumulate_t<T>* highest_of_map, double threshold, accumulate_t<T>* distance,
                 int64_t* parent, int64_t first_block) {
  using Value = accumulate_t<T>;
  const int64_t index = (first_block + blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t map = index;
  const int64_t x = take(map, m.width), y = take(map, m.height);
  await_turn();
  if (map >= m.maps) return;
  const T* density = densities + map * m.height * m.width;
  const Value* maxima = all_maxima + map * m.tiles_y * m.tiles_x;
  const Value own = widen(density[y * m.width + x]);
  distance[index] = 0;
  parent[index] = -1;
  if (!(static_cast<double>(own) > threshold)) return;
  if (!(highest_of_map[map] > own)) {
    distance[index] = static_cast<Value>(sqrt(static_cast<double>(m.height * m.height + m.width * m.width)));
    return;
  }
  const int64_t tile_y = y / kPeakTile, tile_x = x / kPeakTile;
  const int64_t rings = max(max(tile_y, m.tiles_y - 1 - tile_y), max(tile_x, m.tiles_x - 1 - tile_x));
  Nearest nearest;
  for (int64_t ring = 0; ring <= rings; ++ring) {
    const int64_t least = (ring - 1) * kPeakTile + 1;  // distance to a tile of this ring
    if (ring > 0 && least * least > nearest.squared) break;
    for (int64_t v = max(tile_y - ring, int64_t(0)); v <= min(tile_y + ring, m.tiles_y - 1); ++v) {
      const bool whole_row = v == tile_y - ring || v == tile_y + ring;
      const int64_t step = whole_row ? 1 : 2 * ring, gap_y = gap(y, v);
      for (int64_t u = tile_x - ring; u <= tile_x + ring; u += step) {
        if (u < 0 || u >= m.tiles_x) continue;
        const int64_t gap_x = gap(x, u);
        if (gap_y * gap_y + gap_x * gap_x <= nearest.squared && maxima[v * m.tiles_x + u] > own)
          search_tile(m, density, own, y, x, v, u, nearest);
      }
    }
  }
  distance[index] = static_cast<Value>(sqrt(static_cast<double>(nearest.squared)));
  parent[index] = nearest.index;
}

// density [maps, H, W] contiguous.
template <typename T, typename Device>
void density_peaks(Device& device, int64_t maps, int64_t height, int64_t width, const T* density,
                   double threshold, accumulate_t<T>* distance, int64_t* parent) {
  if (maps * height * width == 0) return;
  const PeakMaps m{maps, height, width, (height + kPeakTile - 1) / kPeakTile,
                   (width + kPeakTile - 1) / kPeakTile};
  const int64_t tiles = maps * m.tiles_y * m.tiles_x, warps = kPeakThreads / 32;
  auto* maxima = device.template workspace<accumulate_t<T>>(tiles);
  auto* highest = device.template workspace<accumulate_t<T>>(maps);
  device.launch(tile_maxima<T>, (tiles + warps - 1) / warps, kPeakThreads, 0, m, density, maxima);
  device.launch(map_maxima<accumulate_t<T>>, (maps + warps - 1) / warps, kPeakThreads, 0, m, maxima, highest);
  device.launch(find_parents<T>, (maps * height * width + kPeakThreads - 1) / kPeakThreads, kPeakThreads, 0,
                m, density, maxima, highest, threshold, distance, parent);
}

}  // namespace faceattr::gpu
