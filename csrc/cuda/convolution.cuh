// Host side of the convolutions: cuts the work into runs and tiles and launches it. `Device` is where it
// runs:
//   device.launch(kernel, blocks, threads, shared_bytes, arguments...)   any number of blocks
//   device.template workspace<T>(count)                                  memory that outlives the launches
//   device.multiprocessors                                               blocks below which it is not full
//   device.shared_bytes                                                  that a block may have so that
//   another
//                                                                        fits beside it
//   device.direct_products                                               products up to which one launch that
//                                                                        reads everything as it lies beats
//                                                                        packing and tiles
// The emulator's tests run this very text.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "contraction.cuh"
#include "direct.cuh"
#include "windows.cuh"

namespace faceattr::gpu {

// One axis: `out` positions a cell's map has; a locally shared convolution divides one map among the cells,
// an interweaved one gives each cell a map of its own, `shift` farther.
struct ConvolutionAxis {
  int64_t in, out, cells, kernel, stride, padding, dilation, shift;
  bool interweaved;
};

struct Convolution {
  int64_t batch, in_channels, out_channels;
  ConvolutionAxis y, x;
};

// Strides in elements; p and q are the cell.
template <typename T>
struct Map {
  T* data;
  int64_t n, c, y, x;
};

template <typename T>
struct Result {
  T* data;
  int64_t n, c, p, q, y, x;
  bool is_sum;  // data is of accumulate_t<T>
};

// [cells, O, C, taps] or, channels last, [cells, taps, O, C].
template <typename T>
struct Filters {
  const T* data;
  bool channels_last;
};

template <typename T>
struct PackedMap {
  const T* data;
  int64_t n, p, q;
  int64_t y, x;
  int channels;  // with the padding
};

template <typename T>
int64_t padded_channels(int64_t channels) {
  const int64_t vector = 16 / sizeof(T);
  return divide_up(channels, vector) * vector;
}

inline void require(bool condition, const char* message) {
  if (!condition) throw std::runtime_error(message);
}

inline void check_sizes(const Convolution& c) {
  for (const auto& axis : {c.y, c.x})
    require(axis.in + 2 * axis.padding <= 1 << 30,
            "faceattr on CUDA: a padded map may have up to 2^30 rows and columns");
  require(std::max(c.in_channels, c.out_channels) <= 1 << 30 && c.batch <= INT32_MAX - 64,
          "faceattr on CUDA: up to 2^30 channels and 2^31 - 65 images");
  require(c.y.kernel * c.x.kernel * std::max(c.in_channels, int64_t(1)) <= INT32_MAX,
          "faceattr on CUDA: a filter may have up to 2^31 - 1 weights");
}

// --- Runs: positions of the result that every tap of the filter sees with the same cell.

struct Run {
  int64_t start, length, cell;
};

inline std::vector<Run> forward_runs(const ConvolutionAxis& axis) {
  std::vector<Run> runs;
  for (int64_t p = 0; p < axis.cells; ++p) {
    const int64_t begin = axis.interweaved ? 0 : (p * axis.out + axis.cells - 1) / axis.cells;
    const int64_t end = axis.interweaved ? axis.out : ((p + 1) * axis.out + axis.cells - 1) / axis.cells;
    runs.push_back({begin, end - begin, p});
  }
  return runs;
}

// Whether tap `u` reads the same cell for input positions a and b, both of one residue by the stride.
inline bool same_cell(const ConvolutionAxis& axis, int64_t u, int64_t a, int64_t b) {
  const int64_t back = axis.padding - u * axis.dilation;
  if ((a + back) % axis.stride != 0) return true;  // it reads nothing
  auto cell = [&](int64_t position) {
    return std::clamp((position + back) / axis.stride, int64_t(0), axis.out - 1) * axis.cells / axis.out;
  };
  return cell(a) == cell(b);
}

inline std::vector<Run> input_grad_runs(const ConvolutionAxis& axis) {
  std::vector<Run> runs;
  for (int64_t residue = 0; residue < std::min(axis.stride, axis.in); ++residue) {
    if (axis.interweaved || axis.cells == 1) {
      runs.push_back({residue, divide_up(axis.in - residue, axis.stride), 0});
      continue;
    }
    for (int64_t i = residue; i < axis.in; i += axis.stride) {
      bool joins = i > residue;
      for (int64_t u = 0; u < axis.kernel && joins; ++u) joins = same_cell(axis, u, i - axis.stride, i);
      if (joins)
        ++runs.back().length;
      else
        runs.push_back({i, 1, 0});
    }
  }
  return runs;
}

inline Axis launch_axis(const ConvolutionAxis& axis, Direction direction, const std::vector<Run>& runs,
                        size_t first) {
  const bool forward = direction == Direction::kForward;
  Axis a{};
  a.source_size = static_cast<int>(forward ? axis.in : axis.out);
  a.stride = static_cast<int>(axis.stride);
  a.dilation = static_cast<int>(axis.dilation);
  a.padding = static_cast<int>(axis.padding);
  a.kernel = static_cast<int>(axis.kernel);
  a.shift = static_cast<int>(axis.shift);
  a.cells = static_cast<int>(axis.cells);
  a.every_cell = axis.interweaved;
  a.step = forward ? 1 : static_cast<int>(axis.stride);
  a.run_count = static_cast<int>(std::min(runs.size() - first, size_t(kMostRuns)));
  for (int i = 0; i < a.run_count; ++i) {
    a.start[i] = static_cast<int>(runs[first + i].start);
    a.length[i] = static_cast<int>(runs[first + i].length);
    a.cell[i] = static_cast<int>(runs[first + i].cell);
  }
  return a;
}

inline int64_t longest(const Axis& axis) {
  return *std::max_element(axis.length, axis.length + axis.run_count);
}

// Calls f(y, x) with the axes of each launch: up to kMostRuns runs on each.
template <typename F>
void for_each_launch(const Convolution& c, Direction direction, const F& f) {
  const bool forward = direction == Direction::kForward;
  const auto runs_y = forward ? forward_runs(c.y) : input_grad_runs(c.y);
  const auto runs_x = forward ? forward_runs(c.x) : input_grad_runs(c.x);
  for (size_t i = 0; i < runs_y.size(); i += kMostRuns)
    for (size_t j = 0; j < runs_x.size(); j += kMostRuns)
      f(launch_axis(c.y, direction, runs_y, i), launch_axis(c.x, direction, runs_x, j));
}

// --- Tiles

template <typename T, Unit kUnit>
struct Tiles {
  static constexpr bool kOnTensorCores = false;
  using Large = Tile<T, kUnit, 128, 64, 2, 2, 3>;
  using Small = Tile<T, kUnit, 32, 64, 1, 4, 4>;
  using Weight = Tile<T, kUnit, 64, 64, 2, 2, 4>;
};
// A warp of the wide and of the tall tile takes 64x64: what it reads from shared memory and the instructions
// round the products keep smaller ones waiting.
template <typename T>
struct Tiles<T, Unit::kTensorCore> {
  static constexpr bool kOnTensorCores = true;
  using Large = Tile<T, Unit::kTensorCore, 128, 64, 2, 2, 3>;
  using Small = Tile<T, Unit::kTensorCore, 32, 64, 1, 4, 4>;
  using Weight = Tile<T, Unit::kTensorCore, 64, 64, 2, 2, 4>;
  using WideWeight = Tile<T, Unit::kTensorCore, 64, 128, 2, 2, 3>;
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

// --- Packing: what the products read has its channels side by side, padded with zeros to whole vectors.

// Collects packings (up to two) and launches them together.
template <typename T, typename Device>
class Packer {
 public:
  explicit Packer(Device& device) : device_(device) {}

  PackedMap<T> map(const Map<const T>& map, int64_t batch, int64_t channels, int64_t height, int64_t width) {
    const int64_t vector = 16 / sizeof(T), padded = padded_channels<T>(channels);
    require(width * padded <= INT32_MAX, "faceattr on CUDA: a row of a map may have up to 2^31 - 1 elements");
    const bool as_it_lies = map.c == 1 && channels == padded && map.n % vector == 0 && map.y % vector == 0 &&
                            map.x % vector == 0 && map.y <= INT32_MAX && map.x <= INT32_MAX &&
                            reinterpret_cast<uintptr_t>(map.data) % 16 == 0;
    if (as_it_lies) return {map.data, map.n, 0, 0, map.y, map.x, static_cast<int>(padded)};
    T* packed = device_.template workspace<T>(batch * height * width * padded);
    Packing<T> packing{};
    packing.source = map.data;
    packing.source_batch = map.n;
    packing.source_row = map.c;
    packing.source_outer = map.y;
    packing.source_inner = map.x;
    packing.batch = batch;
    packing.outers = height;
    packing.inners = width;
    packing.rows = static_cast<int>(channels);
    packing.padded = static_cast<int>(padded);
    packing.result = packed;
    packings_[count_++] = packing;
    return {packed, height * width * padded, 0, 0, width * padded, padded, static_cast<int>(padded)};
  }

  // Filters as [cells, taps, columns, depth]: columns O and depth C forward, the other way for the input
  // gradient.
  const T* filters(const Convolution& c, const Filters<T>& filters, Direction direction,
                   bool rounds_to_tf32) {
    const int64_t cells = c.y.cells * c.x.cells, taps = c.y.kernel * c.x.kernel;
    const int64_t outs = c.out_channels, ins = c.in_channels;
    const bool forward = direction == Direction::kForward, last = filters.channels_last;
    const int64_t columns = forward ? outs : ins, depth = forward ? ins : outs,
                  padded = padded_channels<T>(depth);
    if (forward && (last || taps == 1) && padded == depth &&
        reinterpret_cast<uintptr_t>(filters.data) % 16 == 0)
      return filters.data;
    const int64_t next_out = last ? ins : ins * taps, next_in = last ? 1 : taps;
    T* packed = device_.template workspace<T>(cells * taps * columns * padded);
    Packing<T> packing{};
    packing.source = filters.data;
    packing.source_row = forward ? next_in : next_out;
    packing.source_outer = forward ? next_out : next_in;
    packing.outers = columns;
    packing.rows = static_cast<int>(depth);
    packing.padded = static_cast<int>(padded);
    packing.rounds_to_tf32 = rounds_to_tf32;
    packing.result = packed;
    if (last) {
      packing.batch = cells * taps;
      packing.source_batch = outs * ins;
      packing.inners = 1;
    } else {
      packing.batch = cells;
      packing.source_batch = outs * ins * taps;
      packing.inners = taps;
      packing.source_inner = 1;
      packing.inner_first = true;
    }
    packings_[count_++] = packing;
    return packed;
  }

  void launch() {
    const int64_t blocks = packings_[0].blocks() + packings_[1].blocks();
    device_.launch(pack<T>, blocks, 256, 32 * 33 * sizeof(T), packings_[0], packings_[1]);
  }

 private:
  Device& device_;
  Packing<T> packings_[2] = {};
  int count_ = 0;
};

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

template <Direction direction, typename T, typename Device>
void launch_contractions(Device& device, const Convolution& c, Contraction<T> problem, bool allow_tf32) {
  const bool every_cell = direction == Direction::kInputGrad && c.y.interweaved;
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

template <typename T, typename Device>
void convolve(Device& device, const Convolution& c, const Map<const T>& input, const Filters<T>& filters,
              const T* bias, const Result<T>& result, bool allow_tf32) {
  check_sizes(c);
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
  Contraction<T> problem{};
  problem.source = source.data;
  problem.source_n = source.n;
  problem.source_y = static_cast<int>(source.y);
  problem.source_x = static_cast<int>(source.x);
  problem.weight = packer.filters(c, filters, Direction::kForward, allow_tf32);
  problem.rounds_weight = allow_tf32 && problem.weight == filters.data;
  packer.launch();
  problem.bias = bias;
  problem.result = result.data;
  problem.result_is_sum = result.is_sum;
  problem.result_n = result.n;
  problem.result_c = result.c;
  problem.result_p = result.p;
  problem.result_q = result.q;
  problem.result_y = result.y;
  problem.result_x = result.x;
  problem.batch = static_cast<int>(c.batch);
  problem.columns = static_cast<int>(c.out_channels);
  problem.depth = source.channels;
  launch_contractions<Direction::kForward>(device, c, problem, allow_tf32);
}

// `grad` with its packing still to be launched.
template <typename T, typename Device>
void convolve_input_grad(Device& device, const Convolution& c, Packer<T, Device>& packer,
                         const PackedMap<T>& grad, const Filters<T>& filters, const Map<T>& result,
                         bool allow_tf32) {
  check_sizes(c);
  if (c.batch * c.in_channels * c.y.in * c.x.in == 0) return;
  Contraction<T> problem{};
  problem.source = grad.data;
  problem.source_n = grad.n;
  problem.source_p = grad.p;
  problem.source_q = grad.q;
  problem.source_y = static_cast<int>(grad.y);
  problem.source_x = static_cast<int>(grad.x);
  problem.weight = packer.filters(c, filters, Direction::kInputGrad, allow_tf32);
  packer.launch();
  problem.result = result.data;
  problem.result_n = result.n;
  problem.result_c = result.c;
  problem.result_y = result.y;
  problem.result_x = result.x;
  problem.batch = static_cast<int>(c.batch);
  problem.columns = static_cast<int>(c.in_channels);
  problem.depth = grad.channels;
  launch_contractions<Direction::kInputGrad>(device, c, problem, allow_tf32);
}

// `weight` [cells, O, C, taps] and `bias` [cells, O] are written whole; `grad` as above.
template <typename T, typename Device>
void convolve_weight_grad(Device& device, const Convolution& c, Packer<T, Device>& packer,
                          const PackedMap<T>& grad, const Map<const T>& input, T* weight, T* bias,
                          bool allow_tf32) {
  check_sizes(c);
  if (c.out_channels == 0) return;
  const auto source = packer.map(input, c.batch, c.in_channels, c.y.in, c.x.in);
  packer.launch();
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
  problem.in_padded = source.channels;
  problem.columns = taps * source.channels;
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
    const int64_t lines = problem.splits * cells * c.out_channels;
    problem.weight_parts = device.template workspace<accumulate_t<T>>(lines * problem.columns);
    problem.bias_parts = device.template workspace<accumulate_t<T>>(lines);
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
    // A larger tile where it fills the chip and little of it lies outside.
    auto contract_with_larger = [&](auto tile) {
      using Tile = decltype(tile);
      auto area = [&](int64_t rows, int64_t columns) {
        return divide_up(c.out_channels, rows) * rows * divide_up(problem.columns, columns) * columns;
      };
      if (count_tiles(tile) < kBlocks / 2 ||
          4 * area(Tile::kRows, Tile::kColumns) > 5 * area(Weight::kRows, Weight::kColumns))
        return false;
      contract_with(tile);
      return true;
    };
    if constexpr (Tiles::kOnTensorCores) {
      if (contract_with_larger(typename Tiles::Wide{}) || contract_with_larger(typename Tiles::WideWeight{}))
        return;
    }
    contract_with(Weight{});
  });
  const int64_t results = cells * c.out_channels * (problem.columns + 1);
  device.launch(reduce_parts<T>, divide_up(results, 256), 256, 0, problem.weight_parts, problem.bias_parts,
                problem.splits, cells, static_cast<int>(taps), problem.out_channels,
                static_cast<int>(c.in_channels), problem.in_padded, weight, bias);
}

}  // namespace faceattr::gpu
