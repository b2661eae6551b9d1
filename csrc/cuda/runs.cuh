// Host side of the axes: a convolution's sizes, and its launches' runs: positions of the result that every
// tap of the filter sees with the same cell.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "axis.cuh"

namespace faceattr::gpu {

inline int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

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

}  // namespace faceattr::gpu
