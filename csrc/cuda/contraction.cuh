// Convolutions whose filters change from place to place, as matrix products.
//
// Both directions have one shape. The result's positions are cut, on each axis, into runs inside which every
// tap of the filter belongs to one cell; a block computes positions of one run by columns, summing over taps
// and channels:
//
//                    rows                            columns        depth
//   forward          positions (n, y, x) of a cell   out channels   (u, v, in channel)
//   input gradient   positions with the same cells   in channels    (u, v, out channel)
//
// The input gradient thus gathers: no position is written twice, and no product with zero is taken. The run
// is the outermost part of the block's index, each with its own weights; halos are read in place, once for
// all taps where shared memory can hold them (WindowLoader).
#pragma once

#include <type_traits>

#include "loader.cuh"

namespace faceattr::gpu {

// Two neighbours, written at once.
template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T left, right;
};

template <typename Tile, Direction direction>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    contract(const __grid_constant__ Contraction<typename Tile::Element> problem, int64_t first_block) {
  using T = typename Tile::Element;
  using Loader = ContractionLoader<Tile, direction>;
  using Warp = typename WarpOf<Tile, Layout::kDepthInner, Loader::kColumnLayout>::type;
  static_assert(Tile::kThreads >= 64, "two warps list the taps");
  int64_t block = first_block + blockIdx.x;
  const int first_column = static_cast<int>(take(block, problem.column_tiles)) * Tile::kColumns;
  const int64_t first_row = take(block, problem.row_tiles) * Tile::kRows;
  const int run_x = static_cast<int>(take(block, problem.x.run_count)), run_y = static_cast<int>(block);
  const int height = problem.y.length[run_y], width = problem.x.length[run_x];
  const int64_t rows = static_cast<int64_t>(problem.batch) * height * width;
  if (first_row >= rows) return;  // runs differ in length

  const AxisTaps<direction> taps_y{problem.y, run_y}, taps_x{problem.x, run_x};
  TapLists lists(shared_memory() + ContractionMemory<Tile>::taps(problem.windows), taps_y.count(),
                 taps_x.count());
  if (threadIdx.x < 64) {
    const int64_t tap = problem.weight_lines * problem.weight_line;
    const int64_t row = tap * problem.x.kernel, cell = row * problem.y.kernel;
    const int count = threadIdx.x < 32 ? list_taps(taps_y, cell * problem.x.cells, row, lists.y)
                                       : list_taps(taps_x, cell, tap, lists.x);
    if (threadIdx.x % 32 == 0) lists.counts[threadIdx.x / 32] = count;
  }
  __syncthreads();

  const bool has_products = lists.counts[0] > 0 && lists.counts[1] > 0 && problem.depth > 0;
  WindowAxis y, x;
  if (has_products) {
    y.settle(taps_y, lists.y, lists.counts[0], problem.windows.all_y[run_y] >> run_x & 1);
    x.settle(taps_x, lists.x, lists.counts[1], problem.windows.all_x[run_y] >> run_x & 1);
  }
  if (threadIdx.x == 0) {
    lists.axes[0] = y;
    lists.axes[1] = x;
  }
  Row* tile_rows = reinterpret_cast<Row*>(shared_memory() + ContractionMemory<Tile>::rows(problem.windows));
  for (int i = threadIdx.x; i < Tile::kRows; i += Tile::kThreads) {
    int64_t n = min(first_row + i, rows - 1);
    const int64_t column = take(n, width), line = take(n, height);
    tile_rows[i] = {(n * y.size + line * y.step) * x.size + column * x.step,
                    first_row + i < rows
                        ? n * problem.result_n +
                              (problem.y.start[run_y] + line * problem.y.step) * problem.result_y +
                              (problem.x.start[run_x] + column * problem.x.step) * problem.result_x
                        : -1};
  }
  __syncthreads();

  await_turn();
  Warp warp;
  const Row* warp_rows = tile_rows + threadIdx.x / 32 / Tile::kWarpsAcross * Warp::kRows;
  if (has_products) {
    Loader loader(problem, lists, tile_rows, first_column);
    warp.place_rows(
        [&](int row) { return static_cast<int>(warp_rows[row].line - loader.windows.first_line); });
    multiply_tiles<Tile, Layout::kDepthInner, Loader::kColumnLayout>(loader, loader.windows.stages(), warp);
  }

  const int p = problem.y.cell[run_y], q = problem.x.cell[run_x];
  const int64_t cell_offset = p * problem.result_p + q * problem.result_q;
  const T* bias = problem.bias
                      ? problem.bias + (static_cast<int64_t>(p) * problem.x.cells + q) * problem.columns
                      : nullptr;
  const int lane_column =
      first_column + threadIdx.x / 32 % Tile::kWarpsAcross * Warp::kColumns + Warp::first_column();
  const int columns = problem.columns - lane_column;
  using Sum = typename Warp::Sum;
  if (bias)
    warp.add_to_columns([&](int column) {
      return column < columns ? static_cast<Sum>(widen(bias[lane_column + column])) : Sum(0);
    });
  // Calls f(to, sums) for each row, with where this lane's first channel goes.
  auto each_row = [&](auto* result, const auto& f) {
    result += cell_offset + lane_column * problem.result_c;
    warp.for_each_row([&](int row, const auto& sums) {
      const int64_t offset = warp_rows[row].result;
      if (offset >= 0) f(result + offset, sums);
    });
  };
  auto write = [&](auto* result, auto round) {
    if constexpr (Warp::kInPairs) {
      if (problem.result_in_pairs) {
        using Element = std::remove_pointer_t<decltype(result)>;
        each_row(result, [&](Element* to, const auto& sums) {
          sums.for_each_pair([&](int column, Sum left, Sum right) {
            if (column < columns)
              *reinterpret_cast<Pair<Element>*>(to + column) = {round(left), round(right)};
          });
        });
        return;
      }
    }
    each_row(result, [&](auto* to, const auto& sums) {
      int at = 0;
      sums.for_each([&](int column, Sum sum) {
        to += (column - at) * problem.result_c;  // one of two numbers
        at = column;
        if (column < columns) *to = round(sum);
      });
    });
  };
  if (problem.result_is_sum)
    write(static_cast<Sum*>(problem.result), [](Sum sum) { return sum; });
  else
    write(static_cast<T*>(problem.result), [](Sum sum) { return narrow<T>(sum); });
}

}  // namespace faceattr::gpu
