// Density peaks on the CPU: for each foreground position the nearest one of strictly higher density.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../common/dtypes.h"
#include "../cpu/buffer.h"

namespace faceattr {
namespace {

using torch::stable::Tensor;

// A map and its maxima over blocks of 2 x 2, 4 x 4, ... positions, up to one block for all. A NaN is denser
// than nothing, so maxima pass over it.
template <typename T>
class Pyramid {
 public:
  using A = accumulate_t<T>;

  Pyramid(int64_t height, int64_t width) {
    int64_t elements = 0;
    for (;; height = (height + 1) / 2, width = (width + 1) / 2) {
      levels_.push_back({height, width, elements});
      if (levels_.size() > 1) elements += height * width;  // level 0 is the map itself
      if (height == 1 && width == 1) break;
    }
    maxima_ = make_buffer<A>(elements);
  }

  void fill(const T* map) {
    map_ = map;
    for (int64_t l = 1; l < levels(); ++l) {
      const Level& below = levels_[l - 1];
      if (l == 1)
        fill_level(map, below, &maxima_[levels_[l].first]);
      else
        fill_level(&maxima_[below.first], below, &maxima_[levels_[l].first]);
    }
  }

  int64_t levels() const { return levels_.size(); }
  int64_t width() const { return levels_[0].width; }
  A top() const { return at(levels() - 1, 0, 0); }
  bool inside(int64_t level, int64_t y, int64_t x) const {
    return y >= 0 && x >= 0 && y < levels_[level].height && x < levels_[level].width;
  }
  A at(int64_t level, int64_t y, int64_t x) const {
    const int64_t i = levels_[level].first + y * levels_[level].width + x;
    return level == 0 ? static_cast<A>(map_[i]) : maxima_[i];
  }

 private:
  struct Level {
    int64_t height, width, first;
  };

  template <typename Value>
  static void fill_level(const Value* from, const Level& below, A* to) {
    const auto higher = [](A a, A b) { return a > b ? a : b; };  // b where a is NaN
    const A least = -std::numeric_limits<A>::infinity();
    const int64_t height = (below.height + 1) / 2, width = (below.width + 1) / 2, last = below.width - 1;
    torch::stable::parallel_for(0, height, 1 + 16384 / width, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        const Value* top = from + 2 * y * below.width;
        const Value* bottom = 2 * y + 1 < below.height ? top + below.width : top;
        A* const row = to + y * width;
        for (int64_t x = 0; x < below.width / 2; ++x)
          row[x] = higher(
              static_cast<A>(bottom[2 * x + 1]),
              higher(static_cast<A>(bottom[2 * x]),
                     higher(static_cast<A>(top[2 * x + 1]), higher(static_cast<A>(top[2 * x]), least))));
        if (last % 2 == 0)
          row[width - 1] = higher(static_cast<A>(bottom[last]), higher(static_cast<A>(top[last]), least));
      }
    });
  }

  std::vector<Level> levels_;
  const T* map_ = nullptr;
  Buffer<A> maxima_;
};

// Search for the nearest position denser than the one at (y, x). Blocks round it are visited from small to
// large, and only while they may hold something denser that is as near as what has been found.
template <typename T>
struct Search {
  const Pyramid<T>& pyramid;
  int64_t y, x;
  accumulate_t<T> own;
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

template <typename T, typename A = accumulate_t<T>>
void search_rows(const Pyramid<T>& pyramid, int64_t height, int64_t begin, int64_t end, double threshold,
                 A* distance, int64_t* parent) {
  const int64_t width = pyramid.width();
  const A farthest = static_cast<A>(std::sqrt(static_cast<double>(height * height + width * width)));
  for (int64_t y = begin; y < end; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const int64_t i = y * width + x;
      Search<T> search{pyramid, y, x, pyramid.at(0, y, x)};
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
      Pyramid<T> pyramid(height, width);
      for (int64_t at = begin * area; at < end * area; at += area) {
        pyramid.fill(density + at);
        search_rows(pyramid, height, 0, height, threshold, distance + at, parent + at);
      }
    });
    return;
  }
  Pyramid<T> pyramid(height, width);
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
  check_floating(density, op);
  const Tensor map = dense(density);
  const auto dtype = density.scalar_type();
  Tensor distance =
      empty(sizes_of(density), map, dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
  Tensor parent = empty(sizes_of(density), map, ScalarType::Long);
  if (maps == 0) return {distance, parent};
  dispatch_floating(dtype, op, [&](auto zero) {
    using T = decltype(zero);
    search_maps(map.const_data_ptr<T>(), maps, height, width, threshold,
                distance.mutable_data_ptr<accumulate_t<T>>(), parent.mutable_data_ptr<int64_t>());
  });
  return {distance, parent};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(faceattr, CPU, m) {
  m.impl("density_peaks", TORCH_BOX(&density_peaks));
}

}  // namespace faceattr
