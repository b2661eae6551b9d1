// The baseline's inner loops against plain loops, without torch: built for another machine and run by its
// emulator.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../csrc/cpu/tile_kernels.h"

using namespace faceattr;

namespace {

int failures = 0, comparisons = 0;

double next() {  // in [-1, 1], a multiple of 1/64: exact in every dtype
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return static_cast<double>(state >> 25) / 64 - 1;
}

template <typename T>
std::vector<T> make(int64_t size) {
  std::vector<T> values(size);
  for (T& value : values) value = static_cast<T>(static_cast<float>(next()));
  return values;
}

template <typename T>
double number(T value) {
  if constexpr (sizeof(T) == 8)
    return value;
  else
    return static_cast<float>(value);
}

template <typename T>
void expect(const char* what, T result, double expected) {
  // Sums of such numbers are exact; what is rounded to 16 bits is within half a unit of its last place.
  const double unit = sizeof(T) == 2 ? std::fabs(expected) / 128 + 1e-6 : 0;
  ++comparisons;
  if (std::fabs(number(result) - expected) <= unit) return;
  if (++failures < 10) std::printf("%s: %g instead of %g\n", what, number(result), expected);
}

template <typename T>
void check_tile(const TileKernels<T>& kernels) {
  using A = accumulate_t<T>;
  const int64_t steps = 5, x_step = 3;
  for (int v = 1; v <= kernels.max_vectors; ++v)
    for (int r = 1; r <= kernels.max_positions[v - 1]; ++r) {
      const int64_t width = v * kernels.lanes;
      const auto panel = make<T>(2 * steps * width), x = make<T>(400);
      const auto init = make<A>(width);
      const Segment<T> segments[2] = {{panel.data(), 0}, {panel.data() + steps * width, 40}};
      std::vector<const T*> at;
      for (int i = 0; i < r; ++i) at.push_back(x.data() + 7 * i);
      std::vector<A> out(r * width);
      std::vector<A*> rows;
      for (int i = 0; i < r; ++i) rows.push_back(out.data() + i * width);
      kernels.tile[v - 1][r - 1](segments, 2, steps, width, x_step, at.data(), init.data(), rows.data());
      for (int i = 0; i < r; ++i)
        for (int m = 0; m < width; ++m) {
          double sum = init[m];
          for (const auto& segment : segments)
            for (int s = 0; s < steps; ++s)
              sum += number(segment.panel[s * width + m]) * number(at[i][segment.x + s * x_step]);
          expect("tile", out[i * width + m], sum);
        }
    }
}

template <typename T>
void check_outer(const TileKernels<T>& kernels) {
  using A = accumulate_t<T>;
  constexpr int J = TileKernels<T>::kDotRows;
  const int64_t rows = 6;
  for (int64_t length : {1, 2, 3, 4, 5, 8, 11, 17}) {
    const int64_t stride = length + kernels.lanes;
    const auto g = make<A>(J * rows);
    const auto wide = make<A>(rows * stride);
    const auto filters = make<T>(rows * stride);
    const A* at[J];
    for (int j = 0; j < J; ++j) at[j] = g.data() + j * rows;
    std::vector<T> narrow_out(J * length);
    std::vector<A> wide_out(J * length);
    T* narrow_to[J];
    A* wide_to[J];
    for (int j = 0; j < J; ++j)
      narrow_to[j] = narrow_out.data() + j * length, wide_to[j] = wide_out.data() + j * length;
    kernels.outer(at, wide.data(), stride, rows, length, narrow_to);
    kernels.spread(at, filters.data(), stride, rows, length, wide_to);
    for (int j = 0; j < J; ++j)
      for (int k = 0; k < length; ++k) {
        double of_wide = 0, of_filters = 0;
        for (int r = 0; r < rows; ++r) {
          of_wide += number(at[j][r]) * number(wide[r * stride + k]);
          of_filters += number(at[j][r]) * number(filters[r * stride + k]);
        }
        expect("outer", narrow_to[j][k], of_wide);
        expect("spread", wide_to[j][k], of_filters);
      }
  }
}

template <typename T>
void check_dot(const TileKernels<T>& kernels) {
  using A = accumulate_t<T>;
  constexpr int J = TileKernels<T>::kDotRows;
  const int64_t lanes = kernels.lanes;
  for (int64_t length = lanes; length < 4 * lanes; ++length)
    for (int r = 1; r <= kernels.max_dot_positions; ++r) {
      const auto filters = make<T>(J * length);
      const T* rows[J];
      for (int j = 0; j < J; ++j) rows[j] = filters.data() + j * length;
      const int64_t whole = length / lanes * lanes, rest = length - whole, stride = whole + lanes;
      const auto x = make<A>(r * length);
      std::vector<A> padded(r * stride), out(r * J);
      for (int i = 0; i < r; ++i) {
        for (int64_t k = 0; k < whole; ++k) padded[i * stride + k] = x[i * length + k];
        for (int64_t k = 0; k < rest; ++k) padded[i * stride + stride - rest + k] = x[i * length + whole + k];
      }
      kernels.dot[r - 1](rows, length, padded.data(), stride, out.data());
      for (int i = 0; i < r; ++i)
        for (int j = 0; j < J; ++j) {
          double sum = 0;
          for (int64_t k = 0; k < length; ++k) sum += number(rows[j][k]) * number(x[i * length + k]);
          expect("dot", out[i * J + j], sum);
        }
    }
}

template <typename T>
void check_pack(const TileKernels<T>& kernels) {
  for (int64_t columns : {1, 2, 3, 4, 5, 9})
    for (int64_t channels = 1; channels <= kernels.lanes; ++channels) {
      const auto from = make<T>(channels * columns);
      std::vector<int64_t> rows;
      for (int64_t j = 0; j < columns; ++j) rows.push_back((columns - j) * 2);
      const int64_t stride = kernels.lanes + 1;
      std::vector<T> to(stride * (2 * columns + 2));
      kernels.pack(from.data(), from.data() + from.size(), columns, channels, kernels.lanes, rows.data(),
                   columns, to.data(), stride);
      for (int64_t j = 0; j < columns; ++j)
        for (int64_t i = 0; i < kernels.lanes; ++i)
          expect("pack", to[rows[j] * stride + i],
                 number(from[(i < channels ? i : channels - 1) * columns + j]));
    }
}

template <typename T>
void check_scatter(const TileKernels<T>& kernels) {
  using A = accumulate_t<T>;
  for (int64_t channels = 1; channels <= 2 * kernels.lanes; ++channels) {
    const int64_t width = (channels + kernels.lanes - 1) / kernels.lanes * kernels.lanes, positions = 7;
    const auto sums = make<A>(positions * width);
    std::vector<T> map(channels * 20);
    std::vector<T*> out;
    for (int64_t at : {0, 1, 2, 5, 6, 9, 12}) out.push_back(map.data() + at);
    kernels.scatter(sums.data(), width, positions, channels, out.data(), 20);
    for (int64_t r = 0; r < positions; ++r)
      for (int64_t m = 0; m < channels; ++m) expect("scatter", out[r][m * 20], number(sums[r * width + m]));
  }
}

template <typename T>
void check_all() {
  const TileKernels<T>& kernels = tile_kernels<T>();
  check_tile(kernels);
  check_outer(kernels);
  check_dot(kernels);
  check_pack(kernels);
  check_scatter(kernels);
}

}  // namespace

int main() {
  check_all<float>();
  check_all<double>();
  check_all<Half>();
  check_all<BFloat16>();
  std::printf("%d comparisons, %d failures\n", comparisons, failures);
  return failures != 0;
}
