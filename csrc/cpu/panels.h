// Filters repacked for the inner loops: a row of neighbouring output channels for each (cell, tap, summed
// channel).
#pragma once

#include "buffer.h"
#include "tiling.h"

namespace faceattr {

// Rows of one channel group lie one after the other. Each is padded to whole vectors, unless the padding
// would take more than `spare` elements: then vectors reach into the next row, whose values are never used.
template <typename T>
class Panels {
 public:
  Panels(const ChannelGroups& groups, int64_t rows, int64_t spare)
      : groups_(groups),
        rows_(rows),
        padded_((groups.vectors * groups.lanes - groups.channels) * rows <= spare),
        data_(make_buffer<T>((padded_ ? groups.vectors * groups.lanes : groups.channels) * rows +
                             groups.lanes)) {}

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

// panels.row(group, first_row + rows[column])[m] = source[m * stride + column] for the group's channels m;
// nothing is read from `end` on.
template <typename T>
void pack_matrix(const TileKernels<T>& kernels, const Panels<T>& panels, int64_t group, const T* source,
                 const T* end, int64_t stride, int64_t first_row, const std::vector<int64_t>& rows) {
  const auto& groups = panels.groups();
  const int64_t lanes = groups.lanes, channels = groups.channels_in(group);
  for (int64_t m = 0; m < channels; m += lanes) {
    const int64_t here = std::min(lanes, channels - m);
    // Copies of the last channel fill a padded row up.
    const int64_t filled = here < lanes && panels.padded() ? lanes : here;
    kernels.pack(source + m * stride, end, stride, here, filled, rows.data(), rows.size(),
                 panels.row(group, first_row) + m, panels.width(group));
  }
}

}  // namespace faceattr
