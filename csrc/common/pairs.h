// Operands for products of pairs: neighbours along one axis of a map, side by side.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <utility>

#include "buffer.h"
#include "strided.h"
#include "tile_kernels.h"

namespace faceattr {

struct PairedMap {
  Buffer<BFloat16Pair> storage;  // null where the source itself holds the pairs
  Strided4<const BFloat16Pair> map;
};

// Pairs along axis 0 (the batch) or 1 (channels) of a map of size [N, C, H, W]; an odd last one is paired
// with zero.
inline PairedMap pair_up(Strided4<const BFloat16> source, const int64_t (&size)[4], int axis) {
  const int64_t from[4] = {source.n, source.c, source.h, source.w};
  if (axis == 1 && source.c == 1 && size[1] % 2 == 0 && source.n % 2 == 0 && source.h % 2 == 0 &&
      source.w % 2 == 0 && reinterpret_cast<uintptr_t>(source.data) % sizeof(BFloat16Pair) == 0)
    return {nullptr,
            {reinterpret_cast<const BFloat16Pair*>(source.data), source.n / 2, 1, source.h / 2, source.w / 2}};

  // Axes from the outermost to the innermost, as they lie in the source.
  const bool channels_last = source.c == 1 && size[1] > 1;
  const int order[4] = {0, channels_last ? 2 : 1, channels_last ? 3 : 2, channels_last ? 1 : 3};
  int64_t pairs[4] = {size[0], size[1], size[2], size[3]}, to[4], elements = 1;
  pairs[axis] = (size[axis] + 1) / 2;
  for (int i = 3; i >= 0; --i) to[order[i]] = elements, elements *= pairs[order[i]];
  PairedMap paired{make_buffer<BFloat16Pair>(elements), {}};
  BFloat16Pair* const target = paired.storage.get();
  paired.map = {target, to[0], to[1], to[2], to[3]};

  // Inner axes that lie side by side are one run.
  int inner = 3;
  int64_t length = pairs[order[3]];
  while (inner > 1 && order[inner] != axis && order[inner - 1] != axis &&
         from[order[inner - 1]] == from[order[3]] * length)
    length *= pairs[order[--inner]];
  const int64_t step = from[order[3]] * (order[3] == axis ? 2 : 1), runs = elements / std::max<int64_t>(1, length);
  torch::stable::parallel_for(0, runs, 1 + 16384 / (length + 1), [&](int64_t begin, int64_t end) {
    int64_t at[4] = {};
    for (int64_t i = inner - 1, rest = begin; i >= 0; --i) {
      at[order[i]] = rest % pairs[order[i]];
      rest /= pairs[order[i]];
    }
    for (int64_t run = begin; run < end; ++run) {
      const BFloat16* first = source.data;
      for (int d = 0; d < 4; ++d) first += at[d] * from[d] * (d == axis ? 2 : 1);
      const BFloat16* second = first + from[axis];
      BFloat16Pair* row = target + run * length;
      int64_t both = length;  // of the run's pairs
      if (order[3] == axis)
        both = size[axis] / 2;
      else if (2 * at[axis] + 1 == size[axis])
        both = 0;
      if (step == 1)
        for (int64_t i = 0; i < both; ++i) row[i] = {first[i], second[i]};
      else
        for (int64_t i = 0; i < both; ++i) row[i] = {first[i * step], second[i * step]};
      for (int64_t i = both; i < length; ++i) row[i] = {first[i * step], BFloat16(0.f)};
      for (int64_t i = inner - 1; i >= 0 && ++at[order[i]] == pairs[order[i]]; --i) at[order[i]] = 0;
    }
  });
  return paired;
}

}  // namespace faceattr
