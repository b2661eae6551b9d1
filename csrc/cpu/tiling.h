// Cuts convolution-like sums into tiles for the inner loops, and shares the tiles out among the threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "tile_kernels.h"

namespace faceattr {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Channels are cut into groups of whole vectors, as even as can be, each no wider than a tile.
struct ChannelGroups {
  int64_t channels, lanes, vectors, groups;

  ChannelGroups(int64_t channels, int64_t lanes, int64_t max_vectors)
      : channels(channels),
        lanes(lanes),
        vectors(ceil_div(channels, lanes)),
        groups(ceil_div(vectors, max_vectors)) {}

  int64_t first_vector(int64_t group) const { return group * vectors / groups; }
  int64_t first(int64_t group) const { return first_vector(group) * lanes; }
  int64_t vectors_in(int64_t group) const { return first_vector(group + 1) - first_vector(group); }
  int64_t channels_in(int64_t group) const { return std::min(channels, first(group + 1)) - first(group); }
};

// The sums of one channel group at positions that all add up the same segments. Positions form a box of three
// dimensions, the last fastest.
template <typename T>
struct TileJob {
  int64_t count[3], x_step[3], out_step[3];
  const T* x;
  result_t<T>* out;
  int64_t channel_step;                     // of out
  int64_t vectors, channels;                // the last vector may hold fewer than `lanes` channels
  const std::vector<Segment<T>>* segments;  // each of `steps` products
  int64_t steps, panel_step, segment_step;
  accumulate_t<T> init[TileKernels<T>::kMaxVectors * 16];

  int64_t positions() const { return count[0] * count[1] * count[2]; }

  // Dimensions of one position are left to the slow end.
  void squeeze() {
    for (int d = 0; d < 2 && count[2] == 1; ++d)
      for (int64_t* of : {count, x_step, out_step}) std::rotate(of, of + 2, of + 3);
  }
};

// Walks through the positions of a job, a tile's at a time.
template <typename T>
struct Cursor {
  static constexpr int64_t kMost = TileKernels<T>::kMaxPositions;
  const TileJob<T>& job;
  int64_t i, j, k;
  const T* x[kMost] = {};
  result_t<T>* out[kMost] = {};

  Cursor(const TileJob<T>& job, int64_t position)
      : job(job),
        i(position / (job.count[1] * job.count[2])),
        j(position / job.count[2] % job.count[1]),
        k(position % job.count[2]) {}

  static int64_t offset(int64_t i, int64_t j, int64_t k, const int64_t* step) {
    return i * step[0] + j * step[1] + k * step[2];
  }

  // Fills x and out in.
  void take(int64_t positions) {
    for (int64_t r = 0; r < positions;) {
      const T* from = job.x + offset(i, j, k, job.x_step);
      result_t<T>* to = job.out + offset(i, j, k, job.out_step);
      const int64_t end = std::min(positions, r + job.count[2] - k);
      k += end - r;
      for (; r < end; ++r, from += job.x_step[2], to += job.out_step[2]) x[r] = from, out[r] = to;
      if (k < job.count[2]) return;
      k = 0;
      if (++j == job.count[1]) j = 0, ++i;
    }
  }
};

// The next `positions` positions of the cursor's job.
template <typename T>
void run_tile(const TileKernels<T>& kernels, const TileJob<T>& job, Cursor<T>& cursor, int64_t positions) {
  using A = accumulate_t<T>;
  constexpr int64_t most = TileKernels<T>::kMaxPositions;
  const int64_t width = job.vectors * kernels.lanes;
  cursor.take(positions);
  const auto run = [&](A* const* sums) {
    kernels.tile[job.vectors - 1][positions - 1](job.segments->data(), job.segments->size(), job.steps,
                                                 job.panel_step, job.segment_step, cursor.x, job.init, sums);
  };
  // Whole vectors that need no rounding are written where they belong.
  if constexpr (std::is_same_v<A, T>) {
    if (job.channel_step == 1 && job.channels == width) return run(cursor.out);
  }
  alignas(64) A sums[most * TileKernels<T>::kMaxVectors * 16];
  A* rows[most] = {};
  for (int64_t r = 0; r < positions; ++r) rows[r] = sums + r * width;
  run(rows);
  if (job.channel_step == 1) {
    for (int64_t r = 0; r < positions; ++r)
      for (int64_t m = 0; m < job.channels; ++m) cursor.out[r][m] = static_cast<result_t<T>>(rows[r][m]);
  } else {
    kernels.scatter(sums, width, positions, job.channels, cursor.out, job.channel_step);
  }
}

// Multiply-adds of a vector below which another thread is not worth waking.
constexpr int64_t kGrain = 20000;

// How tiles are shared out: neighbouring ones to a thread, or a part of every job to each.
enum class Share { kJobs, kPartOfEveryJob };

// Runs `jobs` jobs of about `products` products a sum. size(j) is a job's {positions, vectors}; make(j, job,
// segments, scratch) fills in the rest, with a Scratch for each thread. The order of a sum never depends on
// the tile or thread that it falls to.
template <typename Scratch, typename T, typename Size, typename Make>
void run_jobs(const TileKernels<T>& kernels, int64_t jobs, int64_t products, Share share, const Size& size,
              const Make& make) {
  std::vector<int64_t> first_tile(jobs + 1, 0);
  int64_t work = 0;
  for (int64_t j = 0; j < jobs; ++j) {
    const auto [count, width] = size(j);
    first_tile[j + 1] = first_tile[j] + ceil_div(count, kernels.max_positions[width - 1]);
    work += count * width;
  }
  const int64_t tiles = first_tile[jobs];
  if (tiles == 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrain * tiles / std::max<int64_t>(1, work * products));
  // A thread's part: [begin, end) of `whole` equal parts of what is shared out.
  const auto run = [&](int64_t begin, int64_t end, int64_t whole) {
    TileJob<T> job;
    std::vector<Segment<T>> segments;
    Scratch scratch;
    for (int64_t j = 0; j < jobs; ++j) {
      const int64_t count = first_tile[j + 1] - first_tile[j];
      int64_t first = begin - first_tile[j], last = end - first_tile[j];
      if (share == Share::kPartOfEveryJob) first = begin * count / whole, last = end * count / whole;
      first = std::max<int64_t>(first, 0), last = std::min(last, count);
      if (first >= last) continue;
      segments.clear();
      make(j, job, segments, scratch);
      job.segments = &segments;
      job.squeeze();
      const int64_t n = job.positions();
      int64_t position = first * n / count;
      Cursor<T> cursor(job, position);
      for (int64_t t = first; t < last; ++t) {
        const int64_t next = (t + 1) * n / count;
        run_tile(kernels, job, cursor, next - position);
        position = next;
      }
    }
  };
  if (share == Share::kJobs) {
    torch::stable::parallel_for(0, tiles, grain, [&](int64_t begin, int64_t end) { run(begin, end, tiles); });
  } else {
    const int64_t parts = std::clamp<int64_t>(tiles / grain, 1, torch::stable::get_num_threads());
    torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) { run(begin, end, parts); });
  }
}

}  // namespace faceattr
