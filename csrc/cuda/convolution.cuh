// Host side of the convolutions: chooses tiles and windows for the work and launches it. `Device` is where it
// runs:
//   device.launch(kernel, blocks, threads, shared_bytes, arguments...)   any number of blocks
//   device.template workspace<T>(count)    memory that outlives the launches
//   device.multiprocessors                 blocks below which it is not full
//   device.shared_bytes                    that a block may have so that another fits beside it
//   device.direct_products                 products up to which one launch that reads everything as it lies
//   beats
//                                          packing and tiles
// The emulator's tests run this very text.
#pragma once

#include <algorithm>
#include <vector>

#include "contraction.cuh"
#include "direct.cuh"
#include "packing.cuh"
#include "weight_contraction.cuh"
#include "windows.cuh"

namespace faceattr::gpu {

// --- Tiles

template <typename T, Unit kUnit>
struct Tiles {
  static constexpr bool kOnTensorCores = false;
  using Large = Tile<T, kUnit, 128, 64, 2, 2, 3>;
  using Small = Tile<T, kUnit, 32, 64, 1, 4, 4>;
  using Weight = Tile<T, kUnit, 64, 64, 2, 2, 4>;
};
// A warp of the wide, the tall and the widest tile takes 64x64: what it reads from shared memory and the
// instructions round the products keep smaller ones waiting.
template <typename T>
struct Tiles<T, Unit::kTensorCore> {
  static constexpr bool kOnTensorCores = true;
  using Large = Tile<T, Unit::kTensorCore, 128, 64, 2, 2, 3>;
  using Small = Tile<T, Unit::kTensorCore, 32, 64, 1, 4, 4>;
  using Weight = Tile<T, Unit::kTensorCore, 64, 64, 2, 2, 4>;
  using WideWeight = Tile<T, Unit::kTensorCore, 64, 128, 2, 2, 3>;
  using WidestWeight = Tile<T, Unit::kTensorCore, 64, 256, 1, 4, 2>;
  using Wide = Tile<T, Unit::kTensorCore, 128, 128, 2, 2, 2>;
  using Tall = Tile<T, Unit::kTensorCore, 256, 64, 4, 1, 2>;
};
template <>
struct Tiles<double, Unit::kFma> {
  static constexpr bool kOnTensorCores = false;
  using Large = Tile<double, Unit::kFma, 64, 64, 2, 2, 2>;
  using Small = Tile<double, Unit::kFma, 32, 64, 1, 4, 3>;
  using Weight = Tile<double, Unit::kFma, 64, 64, 2, 2, 2>;
};

// Calls f with the tiles for T: tensor cores for 16-bit elements, for float32 only as TF32.
template <typename T, typename F>
void with_tiles(bool allow_tf32, const F& f) {
  if constexpr (sizeof(T) == 2)
    f(Tiles<T, Unit::kTensorCore>{});
  else if constexpr (sizeof(T) == 4)
    allow_tf32 ? f(Tiles<T, Unit::kTensorCore>{}) : f(Tiles<T, Unit::kFma>{});
  else
    f(Tiles<T, Unit::kFma>{});
}

// --- The three products

template <typename Tile, Direction direction, typename Device>
void launch_contraction(Device& device, Contraction<typename Tile::Element> problem, const Windows& windows,
                        int64_t rows, int64_t taps) {
  problem.windows = windows;
  problem.row_tiles = divide_up(rows, Tile::kRows);
  problem.column_tiles = divide_up(problem.columns, Tile::kColumns);
  const int64_t runs = static_cast<int64_t>(problem.y.run_count) * problem.x.run_count;
  device.launch(contract<Tile, direction>, runs * problem.row_tiles * problem.column_tiles, Tile::kThreads,
                ContractionMemory<Tile>::bytes(windows, taps), problem);
}

// Whether the channels are pairs that lie side by side, where two can be written at once.
template <typename T>
bool goes_in_pairs(const Contraction<T>& p) {
  const auto size = p.result_is_sum ? sizeof(accumulate_t<T>) : sizeof(T);
  return p.result_c == 1 && p.columns % 2 == 0 &&
         (p.result_n | p.result_p | p.result_q | p.result_y | p.result_x) % 2 == 0 &&
         reinterpret_cast<uintptr_t>(p.result) % (2 * size) == 0;
}

template <Direction direction, typename T, typename Device>
void launch_contractions(Device& device, const Convolution& c, Contraction<T> problem, bool allow_tf32) {
  const bool every_cell = direction == Direction::kInputGrad && c.y.interweaved;
  problem.result_in_pairs = goes_in_pairs(problem);
  const int64_t taps = every_cell ? c.y.kernel * c.y.cells + c.x.kernel * c.x.cells : c.y.kernel + c.x.kernel;
  // With them the large tile still fits the 99 KiB that a block may have on any GPU.
  require(
      taps <= 3072,
      "faceattr on CUDA: height and width of a kernel (interweaved: of all cells') add up to at most 3072");
  for_each_launch(c, direction, [&](const Axis& y, const Axis& x) {
    problem.y = y;
    problem.x = x;
    const int64_t rows = c.batch * longest(y) * longest(x);
    const WindowPlanner planner(direction, y, x, c.batch, taps);
    with_tiles<T>(allow_tf32, [&](auto tiles) {
      using Tiles = decltype(tiles);
      using Large = typename Tiles::Large;
      using Small = typename Tiles::Small;
      auto launch = [&](auto tile, const Windows& windows) {
        launch_contraction<decltype(tile), direction>(device, problem, windows, rows, taps);
      };
      // Larger tiles read less for each product; the small one wastes less on short runs and fills the chip
      // earlier.
      const int64_t runs = static_cast<int64_t>(y.run_count) * x.run_count;
      const int64_t large_rows = divide_up(rows, Large::kRows) * Large::kRows;
      const int64_t small_rows = divide_up(rows, Small::kRows) * Small::kRows;
      auto blocks = [&](auto tile) {
        using Tile = decltype(tile);
        return runs * divide_up(rows, Tile::kRows) * divide_up(problem.columns, Tile::kColumns);
      };
      const int64_t large = blocks(Large{});
      if (large < device.multiprocessors || 4 * large_rows > 5 * small_rows)
        return launch(Small{}, planner.plan<Small>(device));
      const Windows large_windows = planner.plan<Large>(device);
      // One twice as large is taken for 1.6: it is where it saves blocks, in all rounds of all
      // multiprocessors, and its windows, for which there must be room, do not make it read more.
      auto launch_twice_as_large = [&](auto tile) {
        using Tile = decltype(tile);
        if (8 * divide_up(blocks(tile), device.multiprocessors) >
            5 * divide_up(large, device.multiprocessors))
          return false;
        const Windows windows = planner.template plan<Tile>(device);
        const int64_t all_taps = int64_t(y.kernel) * x.kernel;
        if (ContractionMemory<Tile>::bytes(windows, taps) > device.shared_bytes ||
            windows.copied + all_taps * Tile::kColumns >
                2 * (large_windows.copied + all_taps * Large::kColumns))
          return false;
        launch(tile, windows);
        return true;
      };
      if constexpr (Tiles::kOnTensorCores) {
        if (problem.columns > Large::kColumns ? launch_twice_as_large(typename Tiles::Wide{})
                                              : launch_twice_as_large(typename Tiles::Tall{}))
          return;
      }
      launch(Large{}, large_windows);
    });
  });
}

// What both directions have in common.
template <typename T>
Contraction<T> contraction_of(const Convolution& c, const PackedMap<T>& source,
                              const PackedFilters<T>& filters, bool allow_tf32) {
  Contraction<T> problem{};
  problem.source = source.data;
  problem.source_n = source.n;
  problem.source_p = source.p;
  problem.source_q = source.q;
  problem.source_y = static_cast<int>(source.y);
  problem.source_x = static_cast<int>(source.x);
  problem.weight = filters.data;
  problem.weight_lines = c.out_channels;
  problem.weight_line = filters.in_padded;
  problem.rounds_weight = allow_tf32 && !filters.rounded;
  problem.batch = static_cast<int>(c.batch);
  problem.depth = source.channels;
  return problem;
}

template <typename T, typename Device>
void convolve(Device& device, const Convolution& c, const Map<const T>& input, const Filters<T>& filters,
              const T* bias, const Result<T>& result, bool allow_tf32) {
  const int64_t maps = c.y.interweaved ? c.y.cells * c.x.cells : 1,
                positions = c.batch * maps * c.y.out * c.x.out;
  if (positions * c.out_channels == 0) return;
  const int64_t products = positions * c.out_channels * c.in_channels * c.y.kernel * c.x.kernel;
  if (products <= device.direct_products) {
    for_each_launch(c, Direction::kForward, [&](const Axis& y, const Axis& x) {
      const int64_t chunks = divide_up(c.batch * longest(y) * longest(x), kDirectPositions);
      const int64_t warps = static_cast<int64_t>(y.run_count) * x.run_count * c.out_channels * chunks;
      const DirectConvolution<T> problem{input.data,
                                         input.n,
                                         input.c,
                                         input.y,
                                         input.x,
                                         filters.data,
                                         filters.channels_last,
                                         bias,
                                         result.data,
                                         result.is_sum,
                                         result.n,
                                         result.c,
                                         result.p,
                                         result.q,
                                         result.y,
                                         result.x,
                                         static_cast<int>(c.batch),
                                         static_cast<int>(c.in_channels),
                                         static_cast<int>(c.out_channels),
                                         y,
                                         x,
                                         chunks};
      device.launch(convolve_direct<T>, divide_up(warps, kDirectWarps), 32 * kDirectWarps, 0, problem);
    });
    return;
  }
  Packer<T, Device> packer(device);
  const auto source = packer.map(input, c.batch, c.in_channels, c.y.in, c.x.in);
  const auto packed = packer.filters(c, filters, allow_tf32);
  packer.launch();
  Contraction<T> problem = contraction_of(c, source, packed, allow_tf32);
  problem.bias = bias;
  problem.result = result.data;
  problem.result_is_sum = result.is_sum;
  problem.result_n = result.n;
  problem.result_c = result.c;
  problem.result_p = result.p;
  problem.result_q = result.q;
  problem.result_y = result.y;
  problem.result_x = result.x;
  problem.columns = static_cast<int>(c.out_channels);
  launch_contractions<Direction::kForward>(device, c, problem, allow_tf32);
}

template <typename T, typename Device>
void convolve_input_grad(Device& device, const Convolution& c, const PackedMap<T>& grad,
                         const PackedFilters<T>& filters, const Map<T>& result, bool allow_tf32) {
  if (c.batch * c.in_channels * c.y.in * c.x.in == 0) return;
  Contraction<T> problem = contraction_of(c, grad, filters, allow_tf32);
  problem.result = result.data;
  problem.result_n = result.n;
  problem.result_c = result.c;
  problem.result_y = result.y;
  problem.result_x = result.x;
  problem.columns = static_cast<int>(c.in_channels);
  launch_contractions<Direction::kInputGrad>(device, c, problem, allow_tf32);
}

// Gradients of [cells, O, C, taps] or, channels last, of [cells, taps, O, C].
template <typename T>
WeightGrad<T> weight_grad_of(const Convolution& c, T* weight, bool channels_last, T* bias) {
  const int64_t taps = c.y.kernel * c.x.kernel, filter = c.in_channels * taps, cell = c.out_channels * filter;
  if (channels_last) return {weight, cell, c.in_channels, 1, c.out_channels * c.in_channels, bias};
  return {weight, cell, filter, taps, 1, bias};
}

// `result` is written whole.
template <typename T, typename Device>
void convolve_weight_grad(Device& device, const Convolution& c, const PackedMap<T>& grad,
                          const PackedMap<T>& source, const WeightGrad<T>& result, bool allow_tf32) {
  if (c.out_channels == 0) return;
  const int64_t cells = c.y.cells * c.x.cells, taps = c.y.kernel * c.x.kernel;
  WeightContraction<T> problem{};
  problem.grad = grad.data;
  problem.grad_n = grad.n;
  problem.grad_p = grad.p;
  problem.grad_q = grad.q;
  problem.grad_y = static_cast<int>(grad.y);
  problem.grad_x = static_cast<int>(grad.x);
  problem.input = source.data;
  problem.input_n = source.n;
  problem.input_y = static_cast<int>(source.y);
  problem.input_x = static_cast<int>(source.x);
  problem.batch = static_cast<int>(c.batch);
  problem.out_channels = static_cast<int>(c.out_channels);
  problem.out_padded = grad.channels;
  problem.in_channels = static_cast<int>(c.in_channels);
  problem.in_padded = source.channels;
  problem.columns = taps * source.channels;
  problem.result = result;
  // As many splits as fill the chip twice, each of at least four stages. Splits and tile are of the shape
  // alone, so that the sums have the same order on every GPU.
  const int64_t kBlocks = 264, kLeastStages = 4;
  const int64_t cell =
      c.y.interweaved ? c.y.out * c.x.out : divide_up(c.y.out, c.y.cells) * divide_up(c.x.out, c.x.cells);
  auto count_tiles = [&](auto tile) {
    using Tile = decltype(tile);
    problem.row_tiles = divide_up(c.out_channels, Tile::kRows);
    problem.column_tiles = std::max(divide_up(problem.columns, Tile::kColumns), int64_t(1));
    const int64_t most = std::max(c.batch * cell / (Tile::kDepth * kLeastStages), int64_t(1));
    const int64_t blocks = problem.row_tiles * problem.column_tiles * cells;
    problem.splits = std::min(divide_up(kBlocks, blocks), most);
    return blocks * problem.splits;
  };
  auto contract_with = [&](auto tile) {
    using Tile = decltype(tile);
    count_tiles(tile);
    if (problem.splits > 1) {
      const int64_t lines = problem.splits * cells * c.out_channels;
      problem.weight_parts = device.template workspace<accumulate_t<T>>(lines * problem.columns);
      problem.bias_parts = device.template workspace<accumulate_t<T>>(lines);
    }
    for_each_launch(c, Direction::kForward, [&](const Axis& y, const Axis& x) {
      problem.y = y;
      problem.x = x;
      device.launch(contract_weight<Tile>,
                    problem.row_tiles * problem.column_tiles * problem.splits * y.run_count * x.run_count,
                    Tile::kThreads, WeightLoader<Tile>::kSharedBytes, problem);
    });
  };
  with_tiles<T>(allow_tf32, [&](auto tiles) {
    using Tiles = decltype(tiles);
    using Weight = typename Tiles::Weight;
    auto area = [&](int64_t rows, int64_t columns) {
      return divide_up(c.out_channels, rows) * rows * divide_up(problem.columns, columns) * columns;
    };
    // A larger tile where it fills the chip and little of it lies outside.
    auto contract_with_larger = [&](auto tile) {
      using Tile = decltype(tile);
      if (count_tiles(tile) < kBlocks / 2 ||
          4 * area(Tile::kRows, Tile::kColumns) > 5 * area(Weight::kRows, Weight::kColumns))
        return false;
      contract_with(tile);
      return true;
    };
    if constexpr (Tiles::kOnTensorCores) {
      if (contract_with_larger(typename Tiles::Wide{})) return;
      // The widest may lie outside by two fifths, and fills the chip by itself: many parts of it are much to
      // add.
      using Widest = typename Tiles::WidestWeight;
      if (count_tiles(Widest{}) / problem.splits >= kBlocks / 2 &&
          5 * area(Widest::kRows, Widest::kColumns) <= 7 * area(Weight::kRows, Weight::kColumns))
        return contract_with(Widest{});
      if (contract_with_larger(typename Tiles::WideWeight{})) return;
    }
    contract_with(Weight{});
  });
  if (problem.splits == 1) return;
  const int64_t results = cells * c.out_channels * (problem.columns + 1);
  device.launch(reduce_parts<T>, divide_up(results, 256), 256, 0, problem.weight_parts, problem.bias_parts,
                problem.splits, cells, static_cast<int>(taps), problem.out_channels, problem.in_channels,
                problem.in_padded, result);
}

}  // namespace faceattr::gpu
