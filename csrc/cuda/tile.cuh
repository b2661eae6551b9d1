// The inner part of a matrix product: a block's tile, staged in shared memory, and a warp's share of it, in
// registers.
#pragma once

#include "device.cuh"

namespace faceattr::gpu {

// How an operand lies in shared memory. kDepthInner: a line is a row (or column) of the product, running
// along the depth. kDepthOuter: a line is one step of depth, running along the rows.
enum class Layout { kDepthInner, kDepthOuter };

enum class Unit { kFma, kTensorCore };

// A block computes kRows x kColumns of the result, kDepth steps of depth a stage, with kWarpRows x
// kWarpColumns warps. Shared memory is filled by cp.async kStages - 1 stages ahead of its use. kResident
// blocks are to fit a multiprocessor, which is each thread's budget of registers: 65536 / (kThreads *
// kResident).
template <typename Element_, Unit kUnit_, int kRows_, int kColumns_, int kWarpRows, int kWarpColumns,
          int kResident_>
struct Tile {
  using Element = Element_;
  static constexpr Unit kUnit = kUnit_;
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kWarpsDown = kWarpRows, kWarpsAcross = kWarpColumns;
  static constexpr int kThreads = 32 * kWarpRows * kWarpColumns, kResident = kResident_;
  static constexpr int kVector = 16 / sizeof(Element);  // elements a copy
  static constexpr int kDepth = 4 * kVector;
  static constexpr int kStages = 3;

  // Bytes from line to line. The padding spreads the lines that a warp reads at once over all 32 banks: 8
  // lines of kDepthInner are 80 bytes apart; of kDepthOuter, ldmatrix reads 8 lines (16-bit), a scalar
  // fragment 4 (32-bit).
  template <Layout kLayout>
  __host__ __device__ static constexpr int line_bytes(int length) {
    if (kLayout == Layout::kDepthInner) return kDepth * sizeof(Element) + 16;
    return length * sizeof(Element) + (sizeof(Element) == 2 ? 16 : 32);
  }
};

// One row (or column) of a lane's sums. Rows count from the warp's first, columns from the lane's
// first_column(): those are constants.
template <typename Warp, bool kIsRow>
struct Line {
  const Warp& warp;
  int index;

  // Calls f(column, sum), or f(row, sum).
  template <typename F>
  __device__ void for_each(const F& f) const {
#pragma unroll
    for (int k = 0; k < (kIsRow ? Warp::kLaneColumns : Warp::kLaneRows); ++k)
      if constexpr (kIsRow)
        f(Warp::apart(k), warp.sum(index, k));
      else
        f(Warp::row(k), warp.sum(k, index));
  }

  // Calls f(column, sum, sum of the next column).
  template <typename F>
  __device__ void for_each_pair(const F& f) const {
    static_assert(kIsRow && Warp::kInPairs, "neighbouring columns");
#pragma unroll
    for (int k = 0; k < Warp::kLaneColumns; k += 2)
      f(Warp::apart(k), warp.sum(index, k), warp.sum(index, k + 1));
  }
};

// A warp's part of a tile on the plain arithmetic units: lanes lie 8 down, 4 across.
template <typename Tile, Layout kRowLayout, Layout kColumnLayout>
struct FmaWarp {
  using Element = typename Tile::Element;
  using Sum = accumulate_t<Element>;
  static constexpr int kRows = Tile::kRows / Tile::kWarpsDown, kColumns = Tile::kColumns / Tile::kWarpsAcross;
  static constexpr int kDown = kRows / 8, kAcross = kColumns / 4, kVector = Tile::kVector;
  static constexpr int kRowLine = Tile::template line_bytes<kRowLayout>(Tile::kRows);
  static constexpr int kColumnLine = Tile::template line_bytes<kColumnLayout>(Tile::kColumns);
  static constexpr bool kInPairs = kColumnLayout == Layout::kDepthOuter;  // columns 2j, 2j + 1 are neighbours
  static_assert(kRowLayout == Layout::kDepthInner || kColumnLayout == Layout::kDepthOuter, "not needed");
  using Part = Vector<Element>;

  Sum sums[kDown][kAcross] = {};
  int row_at[kDown];  // kDepthInner: bytes from a stage's rows to those of this lane

  // Places the rows: line(row) is where the warp's row lies, in lines.
  template <typename F>
  __device__ void place_rows(const F& line) {
#pragma unroll
    for (int i = 0; i < kDown; ++i) row_at[i] = line(row(i)) * kRowLine;
  }

  // Row of sums[i][..] and column of sums[..][j] for this lane. In kDepthOuter a lane owns kVector neighbours
  // at a time.
  __device__ static int row(int i) {
    const int lane = threadIdx.x % 32 / 4;
    return kRowLayout == Layout::kDepthInner ? lane + 8 * i
                                             : (i / kVector * 8 + lane) * kVector + i % kVector;
  }
  __device__ static int column(int j) { return first_column() + apart(j); }
  __device__ static int first_column() {
    return threadIdx.x % 4 * (kColumnLayout == Layout::kDepthInner ? 1 : kVector);
  }
  __host__ __device__ static constexpr int apart(int j) {
    return kColumnLayout == Layout::kDepthInner ? 4 * j : j / kVector * 4 * kVector + j % kVector;
  }

  // One stage, `vectors` of 16 bytes deep; `columns` are the warp's first line, `rows` what the placed rows
  // count from (kDepthOuter: the warp's first element of the first line). All of it is the first half's work.
  __device__ void begin(const unsigned char*, const unsigned char*) {}
  __device__ void second_half(int) {}
  __device__ void first_half(const unsigned char* rows, const unsigned char* columns, int vectors) {
    if constexpr (kColumnLayout == Layout::kDepthInner) {
#pragma unroll 1
      for (int part = 0; part < vectors; ++part) {
        Part right[kAcross];
#pragma unroll
        for (int j = 0; j < kAcross; ++j)
          right[j] = *reinterpret_cast<const Part*>(columns + column(j) * kColumnLine + part * 16);
#pragma unroll
        for (int i = 0; i < kDown; ++i) {
          const Part left = *reinterpret_cast<const Part*>(rows + row_at[i] + part * 16);
#pragma unroll
          for (int j = 0; j < kAcross; ++j)
#pragma unroll
            for (int k = 0; k < kVector; ++k) sums[i][j] += left.at[k] * right[j].at[k];
        }
      }
    } else if constexpr (kRowLayout == Layout::kDepthInner) {
#pragma unroll 1
      for (int part = 0; part < vectors; ++part) {
        Part left[kDown];
#pragma unroll
        for (int i = 0; i < kDown; ++i)
          left[i] = *reinterpret_cast<const Part*>(rows + row_at[i] + part * 16);
#pragma unroll
        for (int k = 0; k < kVector; ++k) {
          Part right[kAcross / kVector];
          load_vectors(right, columns, part * kVector + k);
#pragma unroll
          for (int i = 0; i < kDown; ++i)
#pragma unroll
            for (int j = 0; j < kAcross; ++j)
              sums[i][j] += left[i].at[k] * right[j / kVector].at[j % kVector];
        }
      }
    } else {
#pragma unroll
      for (int k = 0; k < Tile::kDepth; ++k) {
        Part left[kDown / kVector], right[kAcross / kVector];
#pragma unroll
        for (int i = 0; i < kDown / kVector; ++i)
          left[i] = *reinterpret_cast<const Part*>(rows + k * kRowLine + row(i * kVector) * sizeof(Element));
        load_vectors(right, columns, k);
#pragma unroll
        for (int i = 0; i < kDown; ++i)
#pragma unroll
          for (int j = 0; j < kAcross; ++j)
            sums[i][j] += left[i / kVector].at[i % kVector] * right[j / kVector].at[j % kVector];
      }
    }
  }

  // This lane's columns of step k of the depth, kDepthOuter.
  __device__ static void load_vectors(Part (&right)[kAcross / kVector], const unsigned char* columns, int k) {
#pragma unroll
    for (int j = 0; j < kAcross / kVector; ++j)
      right[j] =
          *reinterpret_cast<const Part*>(columns + k * kColumnLine + column(j * kVector) * sizeof(Element));
  }

  // Adds value(column) to each of this lane's sums.
  template <typename F>
  __device__ void add_to_columns(const F& value) {
#pragma unroll
    for (int j = 0; j < kAcross; ++j) {
      const Sum added = value(apart(j));
#pragma unroll
      for (int i = 0; i < kDown; ++i) sums[i][j] += added;
    }
  }

  // Calls f(row, sums) for each row of this lane, f(column, sums) for each column: see Line.
  template <typename F>
  __device__ void for_each_row(const F& f) const {
#pragma unroll
    for (int i = 0; i < kDown; ++i) f(row(i), Line<FmaWarp, true>{*this, i});
  }
  template <typename F>
  __device__ void for_each_column(const F& f) const {
#pragma unroll
    for (int j = 0; j < kAcross; ++j) f(apart(j), Line<FmaWarp, false>{*this, j});
  }
  static constexpr int kLaneRows = kDown, kLaneColumns = kAcross;
  __device__ Sum sum(int i, int j) const { return sums[i][j]; }
};

__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Half) {
  multiply_half(c, a, b0, b1);
}
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, BFloat16) {
  multiply_bfloat16(c, a, b0, b1);
}
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float) {
  multiply_tf32(c, a, b0, b1);
}

// A warp's part of a tile on the tensor cores: pieces of 16 rows x 8 columns x 32 bytes of depth (float32 as
// TF32), a stage being two pieces deep. What the second half of a stage multiplies is loaded before the first
// half is multiplied, and the first half of the next stage before the second half is.
template <typename Tile, Layout kRowLayout, Layout kColumnLayout>
struct TensorCoreWarp {
  using Element = typename Tile::Element;
  using Sum = float;
  static constexpr int kRows = Tile::kRows / Tile::kWarpsDown, kColumns = Tile::kColumns / Tile::kWarpsAcross;
  static constexpr int kDown = kRows / 16, kAcross = kColumns / 8;
  static constexpr int kRowLine = Tile::template line_bytes<kRowLayout>(Tile::kRows);
  static constexpr int kColumnLine = Tile::template line_bytes<kColumnLayout>(Tile::kColumns);
  static constexpr bool kTf32 = sizeof(Element) == 4;
  // What lies in kDepthInner is rounded to TF32 as it arrives, and its partner with it; where both lie in
  // kDepthOuter others read the numbers as they are, and they are rounded here.
  static constexpr bool kRounds = kTf32 && kRowLayout == Layout::kDepthOuter;
  static constexpr bool kInPairs = true;
  static_assert(kColumns % 16 == 0, "two pieces across are loaded at once");

  struct Fragments {
    uint32_t left[kDown][4], right[kAcross / 2][4];
  };

  float sums[kDown][kAcross][4] = {};
  int row_at[kDown];
  Fragments first, second = {};  // of the halves

  template <typename F>
  __device__ void place_rows(const F& line) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kDown; ++i) row_at[i] = line(i * 16 + lane % 16) * kRowLine + lane / 16 * 16;
  }

  __device__ void begin(const unsigned char* rows, const unsigned char* columns) {
    load(first, rows, columns, 0);
  }
  __device__ void first_half(const unsigned char* rows, const unsigned char* columns, int) {
    load(second, rows, columns, 1);  // zeros past the depth
    multiply_all(first);
  }
  __device__ void second_half(int vectors) {
    if (vectors > 2) multiply_all(second);
  }

  __device__ void load(Fragments& half, const unsigned char* rows, const unsigned char* columns, int part) {
#pragma unroll
    for (int i = 0; i < kDown; ++i) load_left(half.left[i], rows, i, part);
#pragma unroll
    for (int j = 0; j < kAcross / 2; ++j) load_right(half.right[j], columns, j, part);
  }

  __device__ void multiply_all(const Fragments& half) {
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
        multiply(sums[i][j], half.left[i], half.right[j / 2][j % 2 * 2], half.right[j / 2][j % 2 * 2 + 1],
                 Element{});
  }

  // 16 rows; registers: (upper, lower half of the rows) of the first half of the depth, then of the second.
  __device__ void load_left(uint32_t (&left)[4], const unsigned char* rows, int i, int part) const {
    const int lane = threadIdx.x % 32;
    if constexpr (kRowLayout == Layout::kDepthInner) {
      load_matrices(left, rows + row_at[i] + part * 32);
    } else if constexpr (!kTf32) {
      load_matrices_transposed(
          left, rows + (part * 16 + lane % 8 + lane / 16 * 8) * kRowLine + (i * 16 + lane / 8 % 2 * 8) * 2);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        left[k] = word(rows, part * 8 + lane % 4 + k / 2 * 4, kRowLine, i * 16 + lane / 4 + k % 2 * 8);
    }
  }

  // Two pieces of 8 columns; registers: first and second half of the depth of the one, then of the other.
  __device__ static void load_right(uint32_t (&right)[4], const unsigned char* columns, int j, int part) {
    const int lane = threadIdx.x % 32;
    if constexpr (kColumnLayout == Layout::kDepthInner) {
      load_matrices(
          right, columns + (j * 16 + lane % 8 + lane / 16 * 8) * kColumnLine + part * 32 + lane / 8 % 2 * 16);
    } else if constexpr (!kTf32) {
      load_matrices_transposed(
          right, columns + (part * 16 + lane % 16) * kColumnLine + (j * 16 + lane / 16 * 8) * 2);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        right[k] = word(columns, part * 8 + lane % 4 + k % 2 * 4, kColumnLine, j * 16 + lane / 4 + k / 2 * 8);
    }
  }

  __device__ static uint32_t word(const unsigned char* lines, int line, int line_bytes, int at) {
    const float value = *reinterpret_cast<const float*>(lines + line * line_bytes + at * 4);
    return float_bits(kRounds ? rounded_to_tf32(value) : value);
  }

  template <typename F>
  __device__ void add_to_columns(const F& value) {
#pragma unroll
    for (int j = 0; j < 2 * kAcross; ++j) {
      const float added = value(apart(j));
#pragma unroll
      for (int i = 0; i < 2 * kDown; ++i) sums[i / 2][j / 2][i % 2 * 2 + j % 2] += added;
    }
  }

  template <typename F>
  __device__ void for_each_row(const F& f) const {
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) f(row(i), Line<TensorCoreWarp, true>{*this, i});
  }
  template <typename F>
  __device__ void for_each_column(const F& f) const {
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) f(apart(j), Line<TensorCoreWarp, false>{*this, j});
  }
  static constexpr int kLaneRows = 2 * kDown, kLaneColumns = 2 * kAcross;
  __device__ float sum(int i, int j) const { return sums[i / 2][j / 2][i % 2 * 2 + j % 2]; }

  __device__ static int row(int i) { return i * 8 + threadIdx.x % 32 / 4; }
  __device__ static int first_column() { return threadIdx.x % 4 * 2; }
  __host__ __device__ static constexpr int apart(int j) { return j / 2 * 8 + j % 2; }
};

template <typename Tile, Layout kRowLayout, Layout kColumnLayout, Unit kUnit = Tile::kUnit>
struct WarpOf {
  using type = FmaWarp<Tile, kRowLayout, kColumnLayout>;
};
template <typename Tile, Layout kRowLayout, Layout kColumnLayout>
struct WarpOf<Tile, kRowLayout, kColumnLayout, Unit::kTensorCore> {
  using type = TensorCoreWarp<Tile, kRowLayout, kColumnLayout>;
};

}  // namespace faceattr::gpu
