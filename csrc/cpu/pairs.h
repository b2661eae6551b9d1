// Operands for products of pairs: neighbours along one axis of a map, side by side.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../common/strided.h"
#include "buffer.h"
#include "tile_kernels.h"

namespace faceattr {

struct PairedMap {
  Buffer<BFloat16Pair> storage;  // null where the source itself holds the pairs
  Strided4<const BFloat16Pair> map;
};

// Pairs along axis 0 (the batch) or 1 (channels) of a map of size [N, C, H, W], which keeps its order of
// axes; an odd last element is paired with zero.
inline PairedMap pair_up(Strided4<const BFloat16> source, const int64_t (&size)[4], int axis) {
  const bool channels_last = source.c == 1 && size[1] > 1;
  const int64_t pairs = (size[axis] + 1) / 2, apart = axis == 0 ? source.n : source.c;
  if (axis == 1 && channels_last) {
    if (size[1] % 2 == 0 && source.n % 2 == 0 && source.h % 2 == 0 && source.w % 2 == 0 &&
        reinterpret_cast<uintptr_t>(source.data) % sizeof(BFloat16Pair) == 0)
      return {
          nullptr,
          {reinterpret_cast<const BFloat16Pair*>(source.data), source.n / 2, 1, source.h / 2, source.w / 2}};
    PairedMap paired{make_buffer<BFloat16Pair>(size[0] * size[2] * size[3] * pairs), {}};
    BFloat16Pair* const to = paired.storage.get();
    paired.map = {to, size[2] * size[3] * pairs, 1, size[3] * pairs, pairs};
    torch::stable::parallel_for(
        0, size[0] * size[2], 1 + 4096 / (size[3] * pairs), [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row)
            for (int64_t x = 0; x < size[3]; ++x)
              for (int64_t c = 0; c < pairs; ++c) {
                const BFloat16* from = &source(row / size[2], 2 * c, row % size[2], x);
                to[(row * size[3] + x) * pairs + c] = {from[0],
                                                       2 * c + 1 < size[1] ? from[1] : BFloat16(0.f)};
              }
        });
    return paired;
  }

  // What lies inside the paired axis: three more axes, side by side or not.
  const int64_t channels = axis == 0 ? size[1] : 1;
  const int64_t planar[3][2] = {{channels, source.c}, {size[2], source.h}, {size[3], source.w}};
  const int64_t last[3][2] = {{size[2], source.h}, {size[3], source.w}, {channels, source.c}};
  const auto& inside = channels_last ? last : planar;
  const int64_t rows = inside[0][0], row_step = inside[0][1];
  const int64_t columns = inside[1][0], column_step = inside[1][1];
  const int64_t length = inside[2][0], step = inside[2][1];
  const int64_t elements = rows * columns * length;
  const bool dense = step == 1 && column_step == length && row_step == columns * length;

  const int64_t outside = axis == 0 ? 1 : size[0];
  PairedMap paired{make_buffer<BFloat16Pair>(outside * pairs * elements), {}};
  BFloat16Pair* const target = paired.storage.get();
  const int64_t c = axis == 0 ? (channels_last ? 1 : size[2] * size[3]) : elements;
  paired.map = channels_last
                   ? Strided4<const BFloat16Pair>{target, elements, 1, size[3] * channels, channels}
                   : Strided4<const BFloat16Pair>{target, (axis == 0 ? 1 : pairs) * elements, c, size[3], 1};
  const auto& kernels = tile_kernels<BFloat16Pair>();
  torch::stable::parallel_for(
      0, outside * pairs, 1 + 16384 / (elements + 1), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin, count; i < end; i += count) {
          const int64_t pair = i % pairs;
          const BFloat16* from = source.data + (axis == 0 ? 0 : i / pairs * source.n) + 2 * pair * apart;
          BFloat16Pair* to = target + i * elements;
          const bool single = 2 * pair + 1 == size[axis];
          count = 1;
          if (dense && !single) {
            count = std::min(end - i, size[axis] / 2 - pair);
            kernels.zip(from, 2 * apart, apart, elements, count, to);
            continue;
          }
          for (int64_t row = 0; row < rows; ++row)
            for (int64_t column = 0; column < columns; ++column)
              for (int64_t k = 0; k < length; ++k) {
                const BFloat16* first = from + row * row_step + column * column_step + k * step;
                *to++ = {*first, single ? BFloat16(0.f) : first[apart]};
              }
        }
      });
  return paired;
}

// Pairs along the channels of filters [count, channels, taps], contiguous.
inline Buffer<BFloat16Pair> pair_filters(const BFloat16* filters, int64_t count, int64_t channels,
                                         int64_t taps) {
  auto paired = make_buffer<BFloat16Pair>(count * ((channels + 1) / 2) * taps);
  BFloat16Pair* to = paired.get();
  for (int64_t i = 0; i < count; ++i) {
    tile_kernels<BFloat16Pair>().zip(filters, 2 * taps, taps, taps, channels / 2, to);
    to += channels / 2 * taps, filters += channels / 2 * 2 * taps;
    if (channels % 2 == 0) continue;
    for (int64_t tap = 0; tap < taps; ++tap) *to++ = {*filters++, BFloat16(0.f)};
  }
  return paired;
}

}  // namespace faceattr
