// Filters repacked for the inner loops: a row of neighbouring output channels for each (cell, tap, summed
// channel).
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "tiling.h"

namespace faceattr {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

// Not initialised; starts on a cache line.
template <typename T>
Buffer<T> make_buffer(int64_t elements) {
  void* p = std::aligned_alloc(64, ceil_div(std::max<int64_t>(1, elements) * sizeof(T), 64) * 64);
  if (!p) throw std::bad_alloc();
  return Buffer<T>(static_cast<T*>(p));
}

// Rows of one channel group lie one after the other. Each is padded to whole vectors, unless the padding would
// take more than `spare` elements: then vectors reach into the next row, whose values are never used.
template <typename T>
class Panels {
 public:
  Panels(const ChannelGroups& groups, int64_t rows, int64_t spare)
      : groups_(groups),
        rows_(rows),
        padded_((groups.vectors * groups.lanes - groups.channels) * rows <= spare),
        data_(make_buffer<T>((padded_ ? groups.vectors * groups.lanes : groups.channels) * rows + groups.lanes)) {}

  const ChannelGroups& groups() const { return groups_; }
  bool padded() const { return padded_; }
  int64_t width(int64_t group) const {
    return padded_ ? groups_.vectors_in(group) * groups_.lanes : groups_.channels_in(group);
  }
  T* row(int64_t group, int64_t row) const {
    return data_.get() + groups_.first(group) * rows_ + row * width(group);
  }

 private:
  ChannelGroups groups_;
  int64_t rows_;
  bool padded_;
  Buffer<T> data_;
};

// Where a matrix of `channels` rows lies, and to which row of the panels each of its columns goes.
template <typename T>
struct PackSource {
  const T* data;
  const T* end;  // nothing is read from here on
  int64_t channel_stride, columns;
};

// panels.row(group, row_of(column))[m] = source[m][column].
template <typename T, typename RowOf>
void pack_matrix(const TileKernels<T>& kernels, const Panels<T>& panels, int64_t group,
                 const PackSource<T>& source, const RowOf& row_of) {
  const auto& groups = panels.groups();
  const int64_t lanes = groups.lanes, first = groups.first(group), channels = groups.channels_in(group);
  T unused[16];
  for (int64_t m = 0; m < channels; m += lanes) {
    const int64_t here = std::min(lanes, channels - m);
    const T* from[16];
    T* to[16];
    for (int64_t column = 0; column < source.columns; column += lanes) {
      const int64_t wide = std::min(lanes, source.columns - column);
      for (int64_t i = 0; i < lanes; ++i) {
        from[i] = source.data + (first + m + std::min(i, here - 1)) * source.channel_stride + column;
        to[i] = i < wide ? panels.row(group, row_of(column + i)) + m : unused;
      }
      if (wide * 2 > lanes && from[lanes - 1] + lanes <= source.end && (here == lanes || panels.padded())) {
        kernels.transpose(from, to);
      } else {
        for (int64_t i = 0; i < wide; ++i)
          for (int64_t j = 0; j < here; ++j) to[i][j] = from[j][i];
      }
    }
  }
}

}  // namespace faceattr
