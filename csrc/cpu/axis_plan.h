// Cuts an axis (rows or columns) into blocks of positions that read the same taps of the same cells.
#pragma once

#include <cstdint>
#include <vector>

namespace faceattr {

// One product of a position's sum along this axis.
struct AxisTap {
  int64_t tap, cell, source;  // source: what the block's first position reads
};

// Positions first, first + step, ...; position t reads tap.source + t * source_step.
struct AxisBlock {
  int64_t first, step, count, owner;  // owner: the cell that the positions belong to, if they do
  std::vector<AxisTap> taps;
};

// taps_of(position, taps) lists a position's taps and returns its owner; a block grows as long as its next
// position continues it.
template <typename TapsOf>
std::vector<AxisBlock> plan_axis(int64_t size, int64_t step, int64_t source_step, const TapsOf& taps_of) {
  std::vector<AxisBlock> blocks;
  std::vector<AxisTap> taps;
  for (int64_t start = 0; start < step && start < size; ++start) {
    for (int64_t position = start; position < size; position += step) {
      taps.clear();
      const int64_t owner = taps_of(position, taps);
      bool continues =
          position != start && owner == blocks.back().owner && taps.size() == blocks.back().taps.size();
      for (size_t i = 0; continues && i < taps.size(); ++i) {
        const AxisTap& before = blocks.back().taps[i];
        continues = taps[i].tap == before.tap && taps[i].cell == before.cell &&
                    taps[i].source == before.source + blocks.back().count * source_step;
      }
      if (continues)
        ++blocks.back().count;
      else
        blocks.push_back({position, step, 1, owner, taps});
    }
  }
  return blocks;
}

}  // namespace faceattr
