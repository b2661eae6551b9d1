// Vectors along rows: an element of a filter meets neighbouring inputs, and gives neighbouring outputs. To
// the inner loops the input is the panel, and the filters are what is read at each position.
#include <algorithm>

#include "../cpu/buffer.h"
#include "../cpu/tiling.h"
#include "along_rows.h"

namespace faceattr {
namespace {

// Some input rows of one image with the padding round them: [C][rows][pitch].
template <typename T>
struct PaddedRows {
  int64_t rows, pitch;
  Buffer<T> data;

  PaddedRows(int64_t channels, int64_t rows, int64_t pitch)
      : rows(rows), pitch(pitch), data(make_buffer<T>(channels * rows * pitch)) {
    std::fill(data.get(), data.get() + channels * rows * pitch, T(0));
  }

  // Row 0 becomes row `top` of the padded image.
  void read(const LocallySharedGeometry& g, Strided4<const T> input, int64_t image, int64_t top) {
    for (int64_t c = 0; c < g.in_channels; ++c)
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t y = top + row - g.padding_y;
        T* to = data.get() + (c * rows + row) * pitch + g.padding_x;
        if (y < 0 || y >= g.in_height) {
          std::fill(to, to + g.in_width, T(0));
          continue;
        }
        const T* from = &input(image, c, y, 0);
        if (input.w == 1)
          std::copy_n(from, g.in_width, to);
        else
          for (int64_t x = 0; x < g.in_width; ++x) to[x] = from[x * input.w];
      }
  }
};

}  // namespace

template <typename T>
bool is_along_rows_faster(const LocallySharedGeometry& g) {
  const int64_t lanes = tile_kernels<T>().lanes;
  return g.out_channels < lanes && g.stride_x == 1 && g.out_width >= lanes * g.grid_width;
}

template <typename T>
void along_rows_forward(const LocallySharedGeometry& g, Strided4<const T> input, const T* weight,
                        const T* bias, Strided4<T> output) {
  using A = accumulate_t<T>;
  const auto& kernels = tile_kernels<T>();
  const int64_t lanes = kernels.lanes, taps = g.kernel_height * g.kernel_width;
  const int64_t length = g.in_channels * taps;
  // So many rows of the output at a time that what they read stays in the cache; vectors reach beyond its
  // end.
  constexpr int64_t cached_bytes = 128 << 10;
  const int64_t pitch = g.in_width + 2 * g.padding_x + kernels.max_vectors * lanes;
  const int64_t row_bytes = std::max<int64_t>(g.in_channels * pitch * g.stride_y * sizeof(T), 1);
  const int64_t height = std::clamp<int64_t>(cached_bytes / row_bytes, 1, g.out_height);
  const int64_t strips = ceil_div(g.out_height, height), reach = g.dilation_y * (g.kernel_height - 1);
  // The inner loop runs over the longer of the two.
  const bool over_channels = g.in_channels > g.kernel_width;
  const int64_t work = height * g.out_width * g.out_channels * length / lanes;
  const auto run = [&](int64_t begin, int64_t end) {
    PaddedRows<T> rows(g.in_channels, (height - 1) * g.stride_y + reach + 1, pitch);
    const int64_t plane = rows.rows * pitch;
    std::vector<Segment<T>> segments;
    alignas(64) const A zeros[TileKernels<T>::kMaxVectors * 16] = {};
    alignas(64) A sums[TileKernels<T>::kMaxPositions * TileKernels<T>::kMaxVectors * 16];
    const T* filters[TileKernels<T>::kMaxPositions] = {};
    A* sums_of[TileKernels<T>::kMaxPositions] = {};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / strips, first = i % strips * height;
      rows.read(g, input, image, first * g.stride_y);
      for (int64_t y = first; y < std::min(first + height, g.out_height); ++y)
        for (int64_t q = 0; q < g.grid_width; ++q) {
          const int64_t right = cell_begin(q + 1, g.grid_width, g.out_width);
          const int64_t cell = cell_of(y, g.grid_height, g.out_height) * g.grid_width + q;
          for (int64_t x = cell_begin(q, g.grid_width, g.out_width), width; x < right; x += width) {
            const int64_t vectors = std::min<int64_t>(kernels.max_vectors, ceil_div(right - x, lanes));
            width = std::min(vectors * lanes, right - x);
            segments.clear();
            const T* from = rows.data.get() + (y - first) * g.stride_y * pitch + x;
            for (int64_t c = 0; c < (over_channels ? 1 : g.in_channels); ++c)
              for (int64_t u = 0; u < g.kernel_height; ++u)
                for (int64_t v = 0; v < (over_channels ? g.kernel_width : 1); ++v)
                  segments.push_back({from + c * plane + u * g.dilation_y * pitch + v * g.dilation_x,
                                      c * taps + u * g.kernel_width + v});
            const int64_t blocks = ceil_div(g.out_channels, kernels.max_positions[vectors - 1]);
            for (int64_t block = 0; block < blocks; ++block) {
              const int64_t o = block * g.out_channels / blocks;
              const int64_t here = (block + 1) * g.out_channels / blocks - o;
              const int64_t filter = cell * g.out_channels + o;
              for (int64_t r = 0; r < here; ++r) {
                filters[r] = weight + (filter + r) * length;
                sums_of[r] = sums + r * vectors * lanes;
              }
              kernels.tile[vectors - 1][here - 1](
                  segments.data(), segments.size(), over_channels ? g.in_channels : g.kernel_width,
                  over_channels ? plane : g.dilation_x, over_channels ? taps : 1, filters, zeros, sums_of);
              for (int64_t r = 0; r < here; ++r) {
                T* to = &output(image, o + r, y, x);
                const A* sum = sums_of[r];
                const A add = bias ? static_cast<A>(bias[filter + r]) : A(0);
                if (output.w == 1)
                  for (int64_t k = 0; k < width; ++k) to[k] = static_cast<T>(sum[k] + add);
                else
                  for (int64_t k = 0; k < width; ++k) to[k * output.w] = static_cast<T>(sum[k] + add);
              }
            }
          }
        }
    }
  };
  torch::stable::parallel_for(0, g.batch * strips, 1 + kGrain / (work + 1), run);
}

#define FACEATTR_ALONG_ROWS(T)                                                                             \
  template bool is_along_rows_faster<T>(const LocallySharedGeometry&);                                     \
  template void along_rows_forward<T>(const LocallySharedGeometry&, Strided4<const T>, const T*, const T*, \
                                      Strided4<T>);
FACEATTR_ALONG_ROWS(float)
FACEATTR_ALONG_ROWS(double)
FACEATTR_ALONG_ROWS(Half)
FACEATTR_ALONG_ROWS(BFloat16)

}  // namespace faceattr
