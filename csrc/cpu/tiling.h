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
};

// Walks through the positions of a job.
template <typename T>
struct Cursor {
  const TileJob<T>& job;
  int64_t i, j, k;

  Cursor(const TileJob<T>& job, int64_t position)
      : job(job),
        i(position / (job.count[1] * job.count[2])),
        j(position / job.count[2] % job.count[1]),
        k(position % job.count[2]) {}

  int64_t offset(const int64_t* step) const { return i * step[0] + j * step[1] + k * step[2]; }

  void next() {
    if (++k < job.count[2]) return;
    k = 0;
    if (++j < job.count[1]) return;
    j = 0;
    ++i;
  }
};

// The next `positions` positions of the cursor's job.
template <typename T>
void run_tile(const TileKernels<T>& kernels, const TileJob<T>& job, Cursor<T>& cursor, int64_t positions) {
  using A = accumulate_t<T>;
  alignas(64) A sums[TileKernels<T>::kMaxPositions * TileKernels<T>::kMaxVectors * 16];
  const T* x[TileKernels<T>::kMaxPositions] = {};
  result_t<T>* out[TileKernels<T>::kMaxPositions];
  const int64_t width = job.vectors * kernels.lanes;
  for (int64_t r = 0; r < positions; ++r, cursor.next()) {
    x[r] = job.x + cursor.offset(job.x_step);
    out[r] = job.out + cursor.offset(job.out_step);
  }
  kernels.tile[job.vectors - 1][positions - 1](job.segments->data(), job.segments->size(), job.steps,
                                               job.panel_step, job.segment_step, x, job.init, sums);
  if (job.channel_step == 1) {
    for (int64_t r = 0; r < positions; ++r) {
      if constexpr (std::is_same_v<A, T>)
        std::copy_n(sums + r * width, job.channels, out[r]);
      else
        for (int64_t m = 0; m < job.channels; ++m) out[r][m] = static_cast<result_t<T>>(sums[r * width + m]);
    }
  } else {
    kernels.scatter(sums, width, positions, job.channels, out, job.channel_step);
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
