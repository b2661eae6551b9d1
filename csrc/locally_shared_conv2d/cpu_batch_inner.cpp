// Vectors over the batch: a filter's element is read where it lies, once, and meets a vector of images. No
// filter is packed, where packing would cost as much as the few products that it is for. The maps are laid
// out with the batch innermost instead, which costs little: they are small beside the filters.
#include <cstring>

#include "../cpu/panels.h"
#include "batch_inner.h"

namespace faceattr {
namespace {

using torch::stable::parallel_for;

struct MapSize {
  int64_t batch, channels, height, width;
  int64_t area() const { return height * width; }
};

// A copy of a map, [position][rows][lanes]: the lanes are its batch or its channels, in whole vectors, the
// rows the other of the two. A cache line more between positions, so that they do not all fall into the same
// sets.
template <typename T>
class LaidOut {
 public:
  LaidOut(const MapSize& size, int64_t rows, int64_t lanes, int64_t vector)
      : pitch_(ceil_div(lanes, vector) * vector),
        step_(rows * pitch_ + 64 / static_cast<int64_t>(sizeof(T))),
        data_(make_buffer<T>(size.area() * step_ + vector)) {}

  T* at(int64_t position, int64_t row) const { return data_.get() + position * step_ + row * pitch_; }
  int64_t pitch() const { return pitch_; }
  int64_t step() const { return step_; }

 private:
  int64_t pitch_, step_;
  Buffer<T> data_;
};

// Of so many columns that are transposed, how many before the next vector's: few where a vector is a part of
// a cache line, so that lines are written whole.
template <typename T>
int64_t columns_at_once(const TileKernels<T>& kernels, int64_t columns) {
  return kernels.lanes * sizeof(T) < 64 ? 32 : std::max<int64_t>(columns, 1);
}

// What lies beyond the last lane are copies of it.
template <typename T>
LaidOut<T> lay_out(const TileKernels<T>& kernels, const MapSize& size, Strided4<const T> map,
                   bool batch_inner) {
  const int64_t rows = batch_inner ? size.channels : size.batch;
  const int64_t lanes = batch_inner ? size.batch : size.channels;
  const int64_t row_step = batch_inner ? map.c : map.n, lane_step = batch_inner ? map.n : map.c;
  LaidOut<T> to(size, rows, lanes, kernels.lanes);
  const T* end = &map(size.batch - 1, size.channels - 1, size.height - 1, size.width - 1) + 1;
  // What is read side by side: a map's positions, its rows' positions, or the rows of the copy.
  const bool whole = map.w == 1 && map.h == size.width, dense = map.w == 1, rowwise = row_step == 1;
  const int64_t columns = whole ? size.area() : dense ? size.width : rowwise ? rows : 1;
  std::vector<int64_t> places(columns);
  for (int64_t j = 0; j < columns; ++j) places[j] = dense ? j * to.step() : j * to.pitch();
  const auto copy = [&](int64_t position, int64_t row) {
    const T* from = &map(0, 0, position / size.width, position % size.width) + row * row_step;
    const int64_t at_once = columns_at_once(kernels, columns);
    for (int64_t column = 0; column < columns; column += at_once)
      for (int64_t first = 0; first < lanes; first += kernels.lanes) {
        const int64_t here = std::min<int64_t>(kernels.lanes, lanes - first);
        kernels.pack(from + first * lane_step + column, end, lane_step, here, kernels.lanes,
                     places.data() + column, std::min(at_once, columns - column),
                     to.at(position, row) + first, 1);
      }
  };
  const int64_t runs = dense ? size.area() / columns : size.area();
  const int64_t tasks = dense ? rows * runs : runs * (rowwise ? 1 : rows);
  parallel_for(0, tasks, 1 + 32768 / (columns * to.pitch()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (dense)
        copy(i % runs * columns, i / runs);
      else
        copy(i % runs, i / runs);
    }
  });
  return to;
}

// Back from a copy with the batch innermost. What lies side by side in the map, positions or channels, is
// written so.
template <typename T>
void put_back(const TileKernels<T>& kernels, const MapSize& size, const LaidOut<T>& from, Strided4<T> map) {
  const bool whole = map.w == 1 && map.h == size.width, dense = map.w == 1;
  const int64_t lanes = whole ? size.area() : dense ? size.width : size.channels;
  const int64_t from_step = dense ? from.step() : from.pitch();
  std::vector<int64_t> places(size.batch);
  for (int64_t n = 0; n < size.batch; ++n) places[n] = n * map.n;
  const int64_t tasks = dense ? size.channels * (size.area() / lanes) : size.area();
  const T* end = from.at(size.area(), 0);
  parallel_for(0, tasks, 1 + 32768 / (lanes * from.pitch()), [&](int64_t begin, int64_t end_task) {
    for (int64_t i = begin; i < end_task; ++i) {
      const int64_t channel = dense ? i % size.channels : 0;
      const int64_t position = dense ? i / size.channels * lanes : i;
      T* to = &map(0, channel, position / size.width, position % size.width);
      const int64_t vector = dense || map.c == 1 ? kernels.lanes : 1, lane_step = dense ? 1 : map.c;
      const int64_t at_once = columns_at_once(kernels, lanes);
      const int64_t images = vector == 1 || at_once == lanes ? size.batch : vector;
      for (int64_t block = 0; block < lanes; block += at_once)
        for (int64_t image = 0; image < size.batch; image += images)
          for (int64_t first = block; first < std::min(lanes, block + at_once); first += vector) {
            const int64_t here = std::min<int64_t>(vector, lanes - first);
            kernels.pack(from.at(position, channel) + first * from_step + image, end, from_step, here, here,
                         places.data() + image, std::min(images, size.batch - image), to + first * lane_step,
                         1);
          }
    }
  });
}

// The products of many rows of factors with a panel whose lanes are images.
template <typename T>
class RowProducts {
 public:
  RowProducts(const TileKernels<T>& kernels, int64_t batch)
      : kernels_(kernels), groups_(batch, kernels.lanes, kernels.max_vectors) {}

  // store(row, first lane, lanes, sums) of sum over segments and i < steps of
  //   x[row * row_step + segment.x + i * x_step] * segment.panel[i * pitch + lane]
  template <typename Store>
  void run(const std::vector<Segment<T>>& segments, int64_t steps, int64_t pitch, const T* x,
           int64_t row_step, int64_t x_step, int64_t rows, const Store& store) {
    shifted_.clear();
    for (int64_t group = 0; group < groups_.groups; ++group)
      for (const Segment<T>& segment : segments)
        shifted_.push_back({segment.panel + groups_.first(group), segment.x});
    alignas(64) static const T zeros[TileKernels<T>::kMaxVectors * 16] = {};
    alignas(64) T sums[TileKernels<T>::kMaxPositions * TileKernels<T>::kMaxVectors * 16];
    const T* at[TileKernels<T>::kMaxPositions] = {};
    T* to[TileKernels<T>::kMaxPositions] = {};
    const int64_t most = kernels_.max_positions[groups_.vectors_in(groups_.groups - 1) - 1];
    const int64_t blocks = ceil_div(rows, most);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * rows / blocks, count = (block + 1) * rows / blocks - first;
      for (int64_t r = 0; r < count; ++r) at[r] = x + (first + r) * row_step;
      for (int64_t group = 0; group < groups_.groups; ++group) {
        const int64_t vectors = groups_.vectors_in(group), width = vectors * kernels_.lanes;
        for (int64_t r = 0; r < count; ++r) to[r] = sums + r * width;
        kernels_.tile[vectors - 1][count - 1](shifted_.data() + group * segments.size(), segments.size(),
                                              steps, pitch, x_step, at, zeros, to);
        for (int64_t r = 0; r < count; ++r) store(first + r, groups_.first(group), width, to[r]);
      }
    }
  }

 private:
  const TileKernels<T>& kernels_;
  ChannelGroups groups_;
  std::vector<Segment<T>> shifted_;
};

// body(output position) of a cell's.
template <typename Body>
void for_positions(const LocallySharedGeometry& g, const Cell& cell, const Body& body) {
  for (int64_t y = cell.top; y < cell.bottom; ++y)
    for (int64_t x = cell.left; x < cell.right; ++x) body(y * g.out_width + x);
}

// body(tap, input position) of the taps of an output position that are inside the input.
template <typename Body>
void for_taps(const LocallySharedGeometry& g, int64_t position, const Body& body) {
  const int64_t top = position / g.out_width * g.stride_y - g.padding_y;
  const int64_t left = position % g.out_width * g.stride_x - g.padding_x;
  for (int64_t u = 0; u < g.kernel_height; ++u)
    for (int64_t v = 0; v < g.kernel_width; ++v) {
      const int64_t y = top + u * g.dilation_y, x = left + v * g.dilation_x;
      if (y >= 0 && y < g.in_height && x >= 0 && x < g.in_width)
        body(u * g.kernel_width + v, y * g.in_width + x);
    }
}

MapSize input_size(const LocallySharedGeometry& g) {
  return {g.batch, g.in_channels, g.in_height, g.in_width};
}

MapSize output_size(const LocallySharedGeometry& g) {
  return {g.batch, g.out_channels, g.out_height, g.out_width};
}

// Some rows of the grid, as a layer of their own: its first cell, and its first rows of input and output.
struct Strip {
  LocallySharedGeometry g;
  int64_t cell, in_top, out_top;
};

// Cuts a layer so that the copies of a strip's maps stay in the cache. apart: whether no input row may belong
// to two strips.
template <typename T>
std::vector<Strip> cut_into_strips(const LocallySharedGeometry& g, bool apart) {
  constexpr int64_t cached_bytes = 2 << 20, least_positions = 64;
  const int64_t bytes =
      g.batch * sizeof(T) *
      std::max(g.in_channels * g.in_height * g.in_width, g.out_channels * g.out_height * g.out_width);
  const int64_t reach = g.dilation_y * (g.kernel_height - 1) + 1;
  // Cells of a strip must be those of the layer.
  const bool even = g.out_height % g.grid_height == 0;
  if (bytes <= 2 * cached_bytes || !even || g.padding_y > 0 || (apart && reach > g.stride_y))
    return {{g, 0, 0, 0}};
  const int64_t height = g.out_height / g.grid_height;
  const int64_t rows =
      std::max(g.grid_height * cached_bytes / bytes, ceil_div(least_positions, height * g.out_width));
  const int64_t count = ceil_div(g.grid_height, std::max<int64_t>(rows, 1));
  std::vector<Strip> strips;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = i * g.grid_height / count, last = (i + 1) * g.grid_height / count;
    Strip strip{g, first * g.grid_width, first * height * g.stride_y, first * height};
    strip.g.grid_height = last - first;
    strip.g.out_height = (last - first) * height;
    const int64_t end = apart ? (last < g.grid_height ? last * height * g.stride_y : g.in_height)
                              : (last * height - 1) * g.stride_y + reach;
    strip.g.in_height = end - strip.in_top;
    strips.push_back(strip);
  }
  return strips;
}

template <typename T>
Strided4<T> from_row(Strided4<T> map, int64_t row) {
  map.data += row * map.h;
  return map;
}

template <typename T>
void forward_of_strip(const LocallySharedGeometry& g, Strided4<const T> input, const T* weight, const T* bias,
                      Strided4<T> output) {
  const auto& kernels = tile_kernels<T>();
  const int64_t cells = g.grid_height * g.grid_width, taps = g.kernel_height * g.kernel_width;
  const int64_t length = g.in_channels * taps;
  const auto source = lay_out(kernels, input_size(g), input, true);
  const LaidOut<T> result(output_size(g), g.out_channels, g.batch, kernels.lanes);
  const int64_t chunks = ceil_div(g.out_channels, 48);
  parallel_for(0, cells * chunks, 1, [&](int64_t begin, int64_t end) {
    RowProducts<T> products(kernels, g.batch);
    std::vector<Segment<T>> segments;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cell = i / chunks, first = i % chunks * g.out_channels / chunks;
      const int64_t rows = (i % chunks + 1) * g.out_channels / chunks - first;
      const int64_t filter = cell * g.out_channels + first;
      for_positions(g, Cell(g, cell), [&](int64_t position) {
        segments.clear();
        for_taps(g, position, [&](int64_t tap, int64_t at) { segments.push_back({source.at(at, 0), tap}); });
        products.run(segments, g.in_channels, source.pitch(), weight + filter * length, length, taps, rows,
                     [&](int64_t row, int64_t lane, int64_t lanes, const T* sums) {
                       T* to = result.at(position, first + row) + lane;
                       const T add = bias ? bias[filter + row] : T(0);
                       for (int64_t k = 0; k < lanes; ++k) to[k] = sums[k] + add;
                     });
      });
    }
  });
  put_back(kernels, output_size(g), result, output);
}

template <typename T>
void input_grad_of_strip(const LocallySharedGeometry& g, Strided4<const T> grad, const T* weight,
                         Strided4<T> input_grad) {
  const auto& kernels = tile_kernels<T>();
  const int64_t cells = g.grid_height * g.grid_width, taps = g.kernel_height * g.kernel_width;
  const int64_t length = g.in_channels * taps;
  const auto source = lay_out(kernels, output_size(g), grad, true);
  const LaidOut<T> result(input_size(g), g.in_channels, g.batch, kernels.lanes);
  // A task has some channels of every position: no two add to the same one.
  const int64_t wanted = std::max<int64_t>(ceil_div(length, 128), torch::stable::get_num_threads());
  const int64_t chunks = std::min(g.in_channels, wanted);
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    RowProducts<T> products(kernels, g.batch);
    const auto columns =
        make_buffer<T>(chunks > 1 ? g.out_channels * taps * (g.in_channels / chunks + 1) : 0);
    std::vector<Segment<T>> segments(1);
    std::vector<int64_t> places(taps);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * g.in_channels / chunks, channels = (i + 1) * g.in_channels / chunks - first;
      const int64_t rows = channels * taps;
      for (int64_t at = 0; at < g.in_height * g.in_width; ++at)
        std::fill(result.at(at, first), result.at(at, first + channels), T(0));
      for (int64_t cell = 0; cell < cells; ++cell) {
        // The columns of this task's channels, side by side: rows of filters may lie a power of two apart.
        const T* filters = weight + cell * g.out_channels * length;
        for (int64_t o = 0; o < g.out_channels && chunks > 1; ++o)
          std::memcpy(columns.get() + o * rows, filters + o * length + first * taps, rows * sizeof(T));
        if (chunks > 1) filters = columns.get();
        for_positions(g, Cell(g, cell), [&](int64_t position) {
          std::fill(places.begin(), places.end(), -1);
          for_taps(g, position, [&](int64_t tap, int64_t at) { places[tap] = at; });
          segments[0] = {source.at(position, 0), 0};
          products.run(segments, g.out_channels, source.pitch(), filters, 1, rows, rows,
                       [&](int64_t row, int64_t lane, int64_t lanes, const T* sums) {
                         const int64_t place = places[row % taps];
                         if (place < 0) return;
                         T* to = result.at(place, first + row / taps) + lane;
                         for (int64_t k = 0; k < lanes; ++k) to[k] += sums[k];
                       });
        });
      }
    }
  });
  put_back(kernels, input_size(g), result, input_grad);
}

// In so many sums as fill vectors.
template <typename T>
T sum_of(const T* from, int64_t count) {
  T sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int64_t k = 0; k < 16; ++k) sums[k] += from[i + k];
  for (; i < count; ++i) sums[i % 16] += from[i];
  for (int64_t half = 8; half > 0; half /= 2)
    for (int64_t k = 0; k < half; ++k) sums[k] += sums[k + half];
  return sums[0];
}

// Side by side to `step` apart.
template <typename T>
void spread_out(const T* from, int64_t count, T* to, int64_t step) {
  if (step == 1) {
    std::copy_n(from, count, to);
    return;
  }
  for (int64_t i = 0; i < count; ++i) to[i * step] = from[i];
}

template <typename T>
void weight_grad_of_strip(const LocallySharedGeometry& g, Strided4<const T> grad, Strided4<const T> input,
                          T* weight_grad, T* bias_grad) {
  constexpr int64_t step = TileKernels<T>::kDotRows;
  const auto& kernels = tile_kernels<T>();
  const int64_t cells = g.grid_height * g.grid_width, taps = g.kernel_height * g.kernel_width;
  const int64_t length = g.in_channels * taps, quads = ceil_div(g.out_channels, step);
  const int64_t most = g.batch * ceil_div(g.out_height, g.grid_height) * ceil_div(g.out_width, g.grid_width);
  const auto grads = lay_out(kernels, output_size(g), grad, true);
  // An input in channels_last is read where it lies, in whole vectors.
  const bool in_place = input.c == 1 && g.in_channels % kernels.lanes == 0;
  const MapSize copied = in_place ? MapSize{1, 1, 1, 1} : input_size(g);
  const auto inputs = lay_out(kernels, copied, input, false);
  const int64_t image_step = in_place ? input.n : inputs.pitch();
  const auto input_at = [&](int64_t position) {
    return in_place ? &input(0, 0, position / g.in_width, position % g.in_width) : inputs.at(position, 0);
  };
  const int64_t pitch = ceil_div(length, kernels.lanes) * kernels.lanes;
  parallel_for(0, cells * quads, 1, [&](int64_t begin, int64_t end) {
    // What a cell's positions read, [positions][filter], and their gradients, [channel][positions].
    const auto patches = make_buffer<T>(most * pitch + kernels.lanes), rows = make_buffer<T>(step * most);
    for (int64_t i = begin; i < end; ++i) {
      const Cell cell(g, i / quads);
      // The patches of a single position of 1x1 filters are the inputs as they lie, in the copy: images of a
      // map that was not copied may all lie in the same few sets of the cache.
      const bool as_they_lie = !in_place && most == g.batch && taps == 1 && g.padding_y + g.padding_x == 0;
      if (!as_they_lie && (i == begin || i % quads == 0)) {
        T* patch = patches.get();
        for_positions(g, cell, [&](int64_t position) {
          std::fill(patch, patch + g.batch * pitch, T(0));
          for_taps(g, position, [&](int64_t tap, int64_t at) {
            for (int64_t n = 0; n < g.batch; ++n)
              spread_out(input_at(at) + n * image_step, g.in_channels, patch + n * pitch + tap, taps);
          });
          patch += g.batch * pitch;
        });
      }
      const int64_t first = i % quads * step, count = std::min(step, g.out_channels - first);
      const int64_t filter = i / quads * g.out_channels + first;
      const T* factors[step];
      T* filters[step];
      const int64_t positions = g.batch * (cell.bottom - cell.top) * (cell.right - cell.left);
      for (int64_t j = 0; j < step; ++j) {
        T* to = rows.get() + j * most;
        factors[j] = j < count ? to : rows.get();
        filters[j] = weight_grad + (filter + (j < count ? j : 0)) * length;
        if (j >= count) continue;
        for_positions(
            g, cell, [&](int64_t position) { to = std::copy_n(grads.at(position, first + j), g.batch, to); });
        bias_grad[filter + j] = sum_of(factors[j], positions);
      }
      const T* read = patches.get();
      if (as_they_lie)
        for_taps(g, cell.top * g.out_width + cell.left, [&](int64_t, int64_t at) { read = input_at(at); });
      kernels.outer(factors, read, as_they_lie ? image_step : pitch, positions, length, filters);
    }
  });
}

}  // namespace

template <typename T>
bool is_batch_inner_faster(const LocallySharedGeometry& g) {
  const int64_t lanes = tile_kernels<T>().lanes, cells = g.grid_height * g.grid_width;
  const int64_t positions = g.out_height * g.out_width;
  const bool full = g.batch >= 2 * lanes && ceil_div(g.batch, lanes) * lanes * 3 <= g.batch * 4;
  return full && cells > 1 && positions <= 16 * cells && g.in_channels >= 16 && g.out_channels >= 16;
}

template <typename T>
void batch_inner_forward(const LocallySharedGeometry& g, Strided4<const T> input, const T* weight,
                         const T* bias, Strided4<T> output) {
  const int64_t length = g.in_channels * g.kernel_height * g.kernel_width;
  for (const Strip& strip : cut_into_strips<T>(g, false))
    forward_of_strip(strip.g, from_row(input, strip.in_top), weight + strip.cell * g.out_channels * length,
                     bias ? bias + strip.cell * g.out_channels : nullptr, from_row(output, strip.out_top));
}

template <typename T>
void batch_inner_input_grad(const LocallySharedGeometry& g, Strided4<const T> grad, const T* weight,
                            Strided4<T> input_grad) {
  const int64_t length = g.in_channels * g.kernel_height * g.kernel_width;
  for (const Strip& strip : cut_into_strips<T>(g, true))
    input_grad_of_strip(strip.g, from_row(grad, strip.out_top), weight + strip.cell * g.out_channels * length,
                        from_row(input_grad, strip.in_top));
}

template <typename T>
void batch_inner_weight_grad(const LocallySharedGeometry& g, Strided4<const T> grad, Strided4<const T> input,
                             T* weight_grad, T* bias_grad) {
  const int64_t length = g.in_channels * g.kernel_height * g.kernel_width;
  for (const Strip& strip : cut_into_strips<T>(g, false))
    weight_grad_of_strip(strip.g, from_row(grad, strip.out_top), from_row(input, strip.in_top),
                         weight_grad + strip.cell * g.out_channels * length,
                         bias_grad + strip.cell * g.out_channels);
}

#define FACEATTR_BATCH_INNER(T)                                                                             \
  template bool is_batch_inner_faster<T>(const LocallySharedGeometry&);                                     \
  template void batch_inner_forward<T>(const LocallySharedGeometry&, Strided4<const T>, const T*, const T*, \
                                       Strided4<T>);                                                        \
  template void batch_inner_input_grad<T>(const LocallySharedGeometry&, Strided4<const T>, const T*,        \
                                          Strided4<T>);                                                     \
  template void batch_inner_weight_grad<T>(const LocallySharedGeometry&, Strided4<const T>,                 \
                                           Strided4<const T>, T*, T*);
FACEATTR_BATCH_INNER(float)
FACEATTR_BATCH_INNER(double)

}  // namespace faceattr
