// Host side of the windows in shared memory: how many taps each run's serve, and the memory for them.
#pragma once

#include <algorithm>
#include <vector>

#include "loader.cuh"
#include "runs.cuh"

namespace faceattr::gpu {

// What the plan of a launch promises, and who relies on it (`lines` and `taps` of a window as in loader.cuh):
//
//   for every run and tile of rows                         relied on by
//   lines <= most_lines                                    the table of sources: most_lines entries
//   taps <= taps                                           the warps' lists of a group: 2 x taps entries each
//   2 lines <= memory, and 3 lines where taps = 1          the slots of windows (there lines <= kRows)
//   bytes(windows) <= device.shared_bytes, unless every    two blocks fit a multiprocessor; else a block at
//     run's windows serve a single tap                       least fits any GPU
//   all_y and all_x are the same for runs of one height    nobody: only so that ways are found once
//     and width
//   copied: lines of the largest runs' windows, all taps   the choice among tiles
//
// `lines` here is never less than what the kernel counts, which ends the emulator where it is (expect).
class WindowPlanner {
 public:
  // The axes of a launch; `listed_taps` are the most taps of both axes together.
  WindowPlanner(Direction direction, const Axis& y, const Axis& x, int64_t batch, int64_t listed_taps)
      : direction_(direction),
        y_(y),
        x_(x),
        batch_(batch),
        listed_taps_(listed_taps),
        heights_(lengths(y)),
        widths_(lengths(x)) {}

  // Each run's windows are those that copy the fewest lines, of those that leave room for a second block
  // where the largest runs', which do most of the work, or not much larger ones do. A window a tap always
  // fits.
  template <typename Tile, typename Device>
  Windows plan(const Device& device) const {
    auto fits = [&](const Way& way) { return memory<Tile>(way.lines, way.taps) <= device.shared_bytes; };
    const Way most_work = best<Tile>(heights_.back(), widths_.back(), fits);
    Windows windows{};
    windows.most_lines = std::max(static_cast<int>(most_work.lines), Tile::kRows);
    windows.taps = static_cast<int>(most_work.taps);
    windows.copied = most_work.copied;
    auto fits_beside = [&](const Way& way) {
      return 4 * way.lines <= 5 * most_work.lines &&
             memory<Tile>(std::max(way.lines, int64_t(windows.most_lines)),
                          std::max(way.taps, int64_t(windows.taps))) <= device.shared_bytes;
    };
    std::vector<Way> ways;  // of runs of each height and width
    for (const int64_t height : heights_)
      for (const int64_t width : widths_) {
        ways.push_back(best<Tile>(height, width, fits_beside));
        windows.most_lines = std::max(windows.most_lines, static_cast<int>(ways.back().lines));
        windows.taps = std::max(windows.taps, static_cast<int>(ways.back().taps));
      }
    windows.memory = std::max(2 * windows.most_lines, 3 * Tile::kRows);
    for (int i = 0; i < y_.run_count; ++i)
      for (int j = 0; j < x_.run_count; ++j) {
        const Way& way = ways[index(heights_, y_.length[i]) * widths_.size() + index(widths_, x_.length[j])];
        windows.all_y[i] |= static_cast<uint64_t>(way.all_y) << j;
        windows.all_x[i] |= static_cast<uint64_t>(way.all_x) << j;
      }
    return windows;
  }

 private:
  struct Way {
    bool all_y, all_x;
    int64_t taps, lines, copied;  // of a window; lines for all taps
  };

  // The lengths that runs have, each once, in order.
  static std::vector<int64_t> lengths(const Axis& axis) {
    std::vector<int64_t> found(axis.length, axis.length + axis.run_count);
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
  }

  static size_t index(const std::vector<int64_t>& sorted, int64_t value) {
    return std::lower_bound(sorted.begin(), sorted.end(), value) - sorted.begin();
  }

  template <typename Tile>
  int64_t memory(int64_t lines, int64_t taps) const {
    using Memory = ContractionMemory<Tile>;
    const int64_t most_lines = std::max(lines, int64_t(Tile::kRows));
    if (most_lines > 1 << 20 || taps > 1 << 20) return INT64_MAX;  // so that the rest fits int
    Windows windows{};
    windows.taps = static_cast<int>(taps);
    windows.most_lines = static_cast<int>(most_lines);
    windows.memory = std::max(2 * windows.most_lines, 3 * Tile::kRows);
    return Memory::bytes(windows, listed_taps_);
  }

  // The way that copies the fewest lines, of those for which `may_be` holds: it does for single taps.
  template <typename Tile, typename F>
  Way best(int64_t height, int64_t width, const F& may_be) const {
    Way best{false, false, 1, Tile::kRows, Tile::kRows * int64_t(y_.kernel) * x_.kernel};
    if (direction_ == Direction::kInputGrad && y_.every_cell) return best;  // each cell has a map of its own
    for (const bool all_y : {false, true}) {
      Way way{all_y && y_.kernel > 1, x_.kernel > 1, 1, 0, 0};
      way.taps = (way.all_y ? y_.kernel : 1) * (way.all_x ? x_.kernel : 1);
      if (way.taps == 1) continue;
      way.lines = lines(height, width, way.all_y, way.all_x, Tile::kRows);
      way.copied = way.lines * (way.all_y ? 1 : y_.kernel) * (way.all_x ? 1 : x_.kernel);
      if (way.copied <= best.copied && may_be(way)) best = way;
    }
    return best;
  }

  // How often the end of `period` is passed in `rows` steps less one, from a multiple of `rows` on: at most,
  // or at least.
  static int64_t passes(int64_t rows, int64_t period, bool at_most) {
    return rows % period == 0 ? rows / period - 1
           : at_most          ? divide_up(rows - 1, period)
                              : (rows - 1) / period;
  }

  int64_t step(const Axis& axis, bool all) const {
    return all && direction_ == Direction::kForward ? axis.stride : 1;
  }

  int64_t span(const Axis& axis, bool all) const {
    const int64_t reach = int64_t(axis.kernel - 1) * axis.dilation;
    return !all ? 0 : direction_ == Direction::kForward ? reach : reach / axis.stride;
  }

  // Most lines of a window of `rows` positions of a run.
  int64_t lines(int64_t height, int64_t width, bool all_y, bool all_x, int64_t rows) const {
    rows = std::min(rows, batch_ * height * width);
    const int64_t row = (width - 1) * step(x_, all_x), column = (height - 1) * step(y_, all_y);
    const int64_t line = row + span(x_, all_x) + 1;
    // Far more than fits: products of it would not fit either.
    if (span(x_, all_x) >= 1 << 20 || (span(y_, all_y) > 0 && span(y_, all_y) * line > 1 << 20))
      return INT64_MAX >> 16;
    const int64_t map = (column + span(y_, all_y) + 1) * line;
    // With a stride beyond the filter the way to the next line, or map, is shorter than another step.
    const int64_t rows_passed = passes(rows, width, step(y_, all_y) * line - row >= step(x_, all_x)),
                  maps_passed = passes(rows, height * width, span(y_, all_y) + 1 >= step(y_, all_y));
    return (rows - 1 - rows_passed) * step(x_, all_x) +
           (rows_passed - maps_passed) * (step(y_, all_y) * line - row) +
           maps_passed * (map - column * line - row) + span(y_, all_y) * line + span(x_, all_x) + 1;
  }

  Direction direction_;
  const Axis &y_, &x_;
  int64_t batch_, listed_taps_;
  std::vector<int64_t> heights_, widths_;
};

}  // namespace faceattr::gpu
