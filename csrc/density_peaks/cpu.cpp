// Density peaks on the CPU: for each foreground position the nearest one of strictly higher density.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../common/buffer.h"
#include "../common/dtypes.h"

namespace faceattr {
namespace {

using torch::stable::Tensor;

// A map and its maxima over blocks of 2 x 2, 4 x 4, ... positions, up to one block for all. NaN becomes -inf:
// it is nobody's higher neighbour.
template <typename A>
class Pyramid {
 public:
  Pyramid(int64_t height, int64_t width) {
    int64_t elements = 0;
    for (;; height = (height + 1) / 2, width = (width + 1) / 2) {
      levels_.push_back({height, width, elements});
      elements += height * width;
      if (height == 1 && width == 1) break;
    }
    values_ = make_buffer<A>(elements);
  }

  template <typename T>
  void fill(const T* density) {
    const auto& map = levels_[0];
    for (int64_t i = 0; i < map.height * map.width; ++i) {
      const A value = static_cast<A>(density[i]);
      values_[i] = std::isnan(value) ? -std::numeric_limits<A>::infinity() : value;
    }
    for (size_t l = 1; l < levels_.size(); ++l) {
      const Level& below = levels_[l - 1];
      for (int64_t y = 0; y < levels_[l].height; ++y) {
        const A* upper = &values_[below.first + 2 * y * below.width];
        const A* lower = 2 * y + 1 < below.height ? upper + below.width : upper;
        A* to = &values_[levels_[l].first + y * levels_[l].width];
        for (int64_t x = 0; x < levels_[l].width; ++x) {
          const int64_t right = std::min(2 * x + 1, below.width - 1);
          to[x] = std::max(std::max(upper[2 * x], upper[right]), std::max(lower[2 * x], lower[right]));
        }
      }
    }
  }

  int64_t levels() const { return levels_.size(); }
  int64_t width() const { return levels_[0].width; }
  A top() const { return values_[levels_.back().first]; }
  bool inside(int64_t level, int64_t y, int64_t x) const {
    return y >= 0 && x >= 0 && y < levels_[level].height && x < levels_[level].width;
  }
  A at(int64_t level, int64_t y, int64_t x) const {
    return values_[levels_[level].first + y * levels_[level].width + x];
  }

 private:
  struct Level {
    int64_t height, width, first;
  };
  std::vector<Level> levels_;
  Buffer<A> values_;
};

// Search for the nearest position denser than the one at (y, x). Blocks round it are visited from small to large,
// and only while they may hold something denser that is as near as what has been found.
template <typename A>
struct Search {
  const Pyramid<A>& pyramid;
  int64_t y, x;
  A own;
  int64_t squared = INT64_MAX, index = -1;

  void run() {
    if (!(pyramid.top() > own)) return;
    const int64_t levels = pyramid.levels();
    for (int64_t level = 0; level < levels; ++level) {
      for (int64_t row = (y >> level) - 1; row <= (y >> level) + 1; ++row)
        for (int64_t column = (x >> level) - 1; column <= (x >> level) + 1; ++column)
          if (pyramid.inside(level, row, column)) visit(level, row, column);
      // All positions nearer than this have been seen; one block is always between (y, x) and the rest.
      const int64_t seen = (int64_t{1} << level) + 1;
      if (index >= 0 && squared < seen * seen) return;
    }
  }

  void visit(int64_t level, int64_t row, int64_t column) {
    if (!(pyramid.at(level, row, column) > own)) return;
    const int64_t dy = gap(y, level, row), dx = gap(x, level, column), nearest = dy * dy + dx * dx;
    if (nearest > squared) return;
    if (level == 0) {
      const int64_t here = row * pyramid.width() + column;
      if (nearest == squared && here > index) return;
      squared = nearest, index = here;
      return;
    }
    // The near half first: what it holds spares the search of the others.
    const int64_t down = y >> (level - 1) > 2 * row, right = x >> (level - 1) > 2 * column;
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t below = 2 * row + (down ^ (i >> 1)), beside = 2 * column + (right ^ (i & 1));
      if (pyramid.inside(level - 1, below, beside)) visit(level - 1, below, beside);
    }
  }

  // Between a position and the nearest of a block, along one axis.
  static int64_t gap(int64_t position, int64_t level, int64_t block) {
    const int64_t first = block << level, last = ((block + 1) << level) - 1;
    return position < first ? first - position : position > last ? position - last : 0;
  }
};

template <typename A>
void search_rows(const Pyramid<A>& pyramid, int64_t height, int64_t begin, int64_t end, double threshold, A* distance,
                 int64_t* parent) {
  const int64_t width = pyramid.width();
  const A farthest = static_cast<A>(std::sqrt(static_cast<double>(height * height + width * width)));
  for (int64_t y = begin; y < end; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const int64_t i = y * width + x;
      Search<A> search{pyramid, y, x, pyramid.at(0, y, x)};
      const bool foreground = static_cast<double>(search.own) > threshold;
      if (foreground) search.run();
      parent[i] = search.index;
      distance[i] = search.index >= 0 ? static_cast<A>(std::sqrt(static_cast<double>(search.squared)))
                    : foreground      ? farthest
                                      : A(0);
    }
}

// Whole maps in parallel where there are enough of them, rows of one map after the other where not.
template <typename T, typename A = accumulate_t<T>>
void search_maps(const T* density, int64_t maps, int64_t height, int64_t width, double threshold, A* distance,
                 int64_t* parent) {
  const int64_t area = height * width;
  if (maps >= torch::stable::get_num_threads()) {
    torch::stable::parallel_for(0, maps, 1 + 1024 / area, [&](int64_t begin, int64_t end) {
      Pyramid<A> pyramid(height, width);
      for (int64_t at = begin * area; at < end * area; at += area) {
        pyramid.fill(density + at);
        search_rows(pyramid, height, 0, height, threshold, distance + at, parent + at);
      }
    });
    return;
  }
  Pyramid<A> pyramid(height, width);
  for (int64_t at = 0; at < maps * area; at += area) {
    pyramid.fill(density + at);
    torch::stable::parallel_for(0, height, 1 + 1024 / width, [&](int64_t begin, int64_t end) {
      search_rows(pyramid, height, begin, end, threshold, distance + at, parent + at);
    });
  }
}

std::tuple<Tensor, Tensor> density_peaks(const Tensor& density, double threshold) {
  const char* op = "density_peaks";
  check(density.dim() >= 2, op, ": density has shape ", shape_text(density.sizes()),
        ", it must be [..., H, W]");
  const int64_t height = density.size(density.dim() - 2), width = density.size(density.dim() - 1);
  const int64_t area = height * width, maps = area > 0 ? density.numel() / area : 0;
  const Tensor dense = torch::stable::contiguous(density);
  const auto dtype = density.scalar_type();
  Tensor distance = torch::stable::new_empty(
      dense, density.sizes(), dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
  Tensor parent = torch::stable::new_empty(dense, density.sizes(), ScalarType::Long);
  if (maps == 0) return {distance, parent};
  dispatch_floating(dtype, op, [&](auto zero) {
    using T = decltype(zero);
    search_maps(dense.const_data_ptr<T>(), maps, height, width, threshold,
                distance.mutable_data_ptr<accumulate_t<T>>(), parent.mutable_data_ptr<int64_t>());
  });
  return {distance, parent};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CPU, m) {
  m.impl("density_peaks", TORCH_BOX(&density_peaks));
}

}  // namespace faceattr
