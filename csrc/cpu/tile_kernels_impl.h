// The text of the inner loops; each tiles_*.cpp includes it once, with
//   FACEATTR_ISA           the instruction set's name, here a namespace
//   FACEATTR_TARGET        the attribute that lets the compiler use it
//   FACEATTR_VECTOR_BYTES  width of its registers
//   FACEATTR_REGISTERS     how many there are
//   FACEATTR_PAIRS         defined for those of BFloat16Pair
// Nothing of the standard library is called: its templates would be compiled for this instruction set and
// could replace, in the linked library, those that every machine must be able to run.

#include "registers_impl.h"

namespace faceattr::FACEATTR_ISA {

// The micro-kernel. All V x R sums live in registers while the loop runs over what is summed. Every step
// loads V vectors of the panel (neighbouring output channels) and, for each position, one input element that
// is spread over a register: V * R multiply-adds for V + R loads. The inputs are read where they lie, so
// nothing is unfolded, and any strides will do.
template <typename T, int V, int R>
FACEATTR_TARGET void tile(const Segment<T>* segments, int64_t segment_count, int64_t steps,
                          int64_t panel_step, int64_t x_step, const T* const* x, const accumulate_t<T>* init,
                          accumulate_t<T>* const* out) {
  using A = accumulate_t<T>;
  constexpr int lanes = kLanes<A>;
  Register<A> sum[R][V];
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) {
    const auto start = load_vector<Register<A>>(init + v * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) sum[r][v] = start;
  }
  for (int64_t s = 0; s < segment_count; ++s) {
    const T* panel = segments[s].panel;
    const T* at[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) at[r] = x[r] + segments[s].x;
    for (int64_t i = 0, offset = 0; i < steps; ++i, offset += x_step, panel += panel_step) {
      decltype(Convert<T>::load(panel)) w[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) w[v] = Convert<T>::load(panel + v * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const auto value = Convert<T>::broadcast(at[r] + offset);
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) sum[r][v] = add_product(sum[r][v], value, w[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) __builtin_memcpy(out[r] + v * lanes, &sum[r][v], sizeof(Register<A>));
}

// Lane i of pick<...>(a, b) is lane index(i) of the pair a, b.
template <typename B, int N, typename Index>
FACEATTR_INLINE Vec<B, N> pick(Vec<B, N> a, Vec<B, N> b, Index index) {
#ifdef __clang__  // which has no __builtin_shuffle, and makes a shuffle of this
  Vec<B, N> picked;
#pragma unroll
  for (int i = 0; i < N; ++i) picked[i] = index(i) < N ? a[index(i)] : b[index(i) - N];
  return picked;
#else
  Vec<Bits<B>, N> mask;
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) mask[i] = index(i);
  return __builtin_shuffle(a, b, mask);
#endif
}

template <int Stride>
struct Lower {  // of each 2 * Stride lanes: the first Stride of a, then those of b
  int lanes;
  FACEATTR_INLINE int operator()(int i) const { return i & Stride ? i - Stride + lanes : i; }
};
template <int Stride>
struct Upper {  // the last Stride of a, then those of b
  int lanes;
  FACEATTR_INLINE int operator()(int i) const { return i & Stride ? i + lanes : i + Stride; }
};

// One round swaps the off-diagonal blocks of Stride x Stride; all rounds together transpose each N x N.
template <typename B, int N, int Stride, int Lanes = N>
FACEATTR_INLINE void transpose_round(Vec<B, Lanes>* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    if (i & Stride) continue;
    const auto a = rows[i], b = rows[i + Stride];
    rows[i] = pick<B, Lanes>(a, b, Lower<Stride>{Lanes});
    rows[i + Stride] = pick<B, Lanes>(a, b, Upper<Stride>{Lanes});
  }
}

// The lower or upper half of v, rounded: lane i goes to to[i] where bit i of the mask is set.
template <typename T, bool Upper>
FACEATTR_INLINE void store_half(T* to, Register<accumulate_t<T>> v, unsigned mask) {
#if FACEATTR_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 8) {
    _mm256_mask_storeu_pd(to, mask, _mm512_maskz_extractf64x4_pd(0xff, (__m512d)v, Upper));
  } else if constexpr (sizeof(T) == 4) {
    _mm256_mask_storeu_ps(to, mask, _mm512_maskz_extractf32x8_ps(0xff, (__m512)v, Upper));
  } else {
    T halves[kLanes<float>];
    Convert<T>::store(halves, v);
    _mm_mask_storeu_epi16(to, mask, load_vector<__m128i>(halves + (Upper ? 8 : 0)));
  }
#else
  constexpr int half = kLanes<accumulate_t<T>> / 2;
  T all[2 * half];
  Convert<T>::store(all, v);
  const T* from = all + (Upper ? half : 0);
  if (mask == (1u << half) - 1) {
    __builtin_memcpy(to, from, half * sizeof(T));
    return;
  }
  for (int i = 0; i < half; ++i)
    if (mask >> i & 1) to[i] = from[i];
#endif
}

template <typename T>
FACEATTR_TARGET void scatter(const accumulate_t<T>* sums, int64_t width, int64_t positions, int64_t channels,
                             T* const* out, int64_t channel_step) {
  using A = accumulate_t<T>;
  using B = Bits<A>;
  constexpr int n = kLanes<A>, half = n / 2;  // positions at a time: half a vector's lanes
  for (int64_t first = 0; first < positions; first += half) {
    const int here = positions - first < half ? positions - first : half;
    T* to[half];  // each run of positions side by side, as if it began at the first one
    unsigned masks[half];
    int runs = 0;
    for (int r = 0; r < here; ++r) {
      if (r == 0 || out[first + r] != out[first + r - 1] + 1) {
        to[runs] = out[first + r] - r;
        masks[runs++] = 0;
      }
      masks[runs - 1] |= 1u << r;
    }
    for (int64_t m = 0; m < channels; m += n) {
      // Transposed, each register holds a channel's positions and behind them those of the channel `half` on.
      Vec<B, n> block[half];
#pragma GCC unroll 16
      for (int r = 0; r < half; ++r)
        block[r] = load_vector<Vec<B, n>>(sums + (first + (r < here ? r : 0)) * width + m);
      if constexpr (half > 1) transpose_round<B, half, 1, n>(block);
      if constexpr (half > 2) transpose_round<B, half, 2, n>(block);
      if constexpr (half > 4) transpose_round<B, half, 4, n>(block);
      for (int run = 0; run < runs; ++run) {
        T* at = to[run] + m * channel_step;
#pragma GCC unroll 16
        for (int i = 0; i < half; ++i) {
          if (m + i < channels)
            store_half<T, false>(at + i * channel_step, (Register<A>)block[i], masks[run]);
          if (m + half + i < channels)
            store_half<T, true>(at + (half + i) * channel_step, (Register<A>)block[i], masks[run]);
        }
      }
    }
  }
}

// Lane i of round j of picking what lies at i * Taps + tap in a row of registers: it comes from register j or
// stays.
template <int Taps>
struct EveryNth {
  int lanes, tap, round;
  FACEATTR_INLINE int operator()(int i) const {
    const int at = i * Taps + tap;
    if (round == 1) return at < 2 * lanes ? at : 0;
    return at / lanes == round ? lanes + at % lanes : i;
  }
};

// Rows of Taps elements each, lanes of them in a row of Taps registers, to columns.
template <typename B, int N, int Taps, int Tap = 0>
FACEATTR_INLINE void split_columns(const Vec<B, N>* from, Vec<B, N>* columns) {
  auto column = from[0];
  if constexpr (Taps > 1) column = pick<B, N>(from[0], from[1], EveryNth<Taps>{N, Tap, 1});
  if constexpr (Taps > 2) column = pick<B, N>(column, from[2], EveryNth<Taps>{N, Tap, 2});
  if constexpr (Taps > 3) column = pick<B, N>(column, from[3], EveryNth<Taps>{N, Tap, 3});
  columns[Tap] = column;
  if constexpr (Tap + 1 < Taps) split_columns<B, N, Taps, Tap + 1>(from, columns);
}

// pack for a full vector of channels with Taps columns, which lie side by side.
template <typename T, int Taps>
FACEATTR_INLINE void pack_few(const T* from, const int64_t* rows, T* to, int64_t to_stride) {
  constexpr int n = kLanes<accumulate_t<T>>;
  Vec<Bits<T>, n> block[Taps], columns[Taps];
#pragma GCC unroll 16
  for (int i = 0; i < Taps; ++i) block[i] = load_vector<Vec<Bits<T>, n>>(from + i * n);
  split_columns<Bits<T>, n, Taps>(block, columns);
#pragma GCC unroll 16
  for (int i = 0; i < Taps; ++i) __builtin_memcpy(to + rows[i] * to_stride, &columns[i], sizeof(columns[i]));
}

template <typename T>
FACEATTR_TARGET void pack(const T* from, const T* end, int64_t from_stride, int64_t channels, int64_t filled,
                          const int64_t* rows, int64_t columns, T* to, int64_t to_stride) {
  constexpr int n = kLanes<accumulate_t<T>>;
  using B = Bits<T>;
  const T* const last = from + (channels - 1) * from_stride;
  if (channels == n && from_stride == columns) {
    if (columns == 1) return pack_few<T, 1>(from, rows, to, to_stride);
    if (columns == 2) return pack_few<T, 2>(from, rows, to, to_stride);
    if (columns == 3) return pack_few<T, 3>(from, rows, to, to_stride);
    if (columns == 4) return pack_few<T, 4>(from, rows, to, to_stride);
  }
  int64_t column = 0;
  while (filled == n && column < columns) {
    const int64_t wide = columns - column < n ? columns - column : n;
    if (2 * wide < n || last + column + n > end) break;  // not worth it, or not all there
    Vec<B, n> block[n];
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i)
      block[i] = load_vector<Vec<B, n>>((i < channels ? from + i * from_stride : last) + column);
#if FACEATTR_VECTOR_BYTES < 64
    if (column % (64 / sizeof(T)) == 0) {  // the next vector's rows, for the next call
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) __builtin_prefetch(from + (n + i) * from_stride + column);
    }
#endif
    transpose_round<B, n, 1>(block);
    if constexpr (n > 2) transpose_round<B, n, 2>(block);
    if constexpr (n > 4) transpose_round<B, n, 4>(block);
    if constexpr (n > 8) transpose_round<B, n, 8>(block);
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i)
      if (i < wide) __builtin_memcpy(to + rows[column + i] * to_stride, &block[i], sizeof(block[i]));
    column += wide;
  }
  for (; column < columns; ++column)
    for (int i = 0; i < filled; ++i)
      to[rows[column] * to_stride + i] = (i < channels ? from + i * from_stride : last)[column];
}

// Adds neighbouring blocks of Stride lanes: a's sums stay in front of b's.
template <typename A, int Stride>
FACEATTR_INLINE Register<A> fold(Register<A> a, Register<A> b) {
  constexpr int n = kLanes<A>;
  return pick<A, n>(a, b, Lower<Stride>{n}) + pick<A, n>(a, b, Upper<Stride>{n});
}

template <typename A>
FACEATTR_INLINE void store_sums(const Register<A>* sums, A* out) {
  constexpr int n = kLanes<A>;
  if constexpr (n == 2) {
    for (int j = 0; j < 4; ++j) out[j] = sums[j][0] + sums[j][1];
  } else {
    auto all = fold<A, 2>(fold<A, 1>(sums[0], sums[1]), fold<A, 1>(sums[2], sums[3]));
    if constexpr (n > 4) all = fold<A, 4>(all, all);
    if constexpr (n > 8) all = fold<A, 8>(all, all);
    __builtin_memcpy(out, &all, 4 * sizeof(A));
  }
}

// Where a cell has few positions, its filters are not worth packing: they are multiplied as they lie, along
// what is summed.
template <typename T, int R>
FACEATTR_TARGET void dot(const T* const* rows, int64_t length, const accumulate_t<T>* x, int64_t x_stride,
                         accumulate_t<T>* out) {
  using A = accumulate_t<T>;
  using B = Vec<Bits<A>, kLanes<A>>;
  constexpr int lanes = kLanes<A>, J = TileKernels<T>::kDotRows;
  Register<A> sum[R][J] = {};
  const int64_t whole = length / lanes * lanes;
  for (int64_t k = 0; k < whole; k += lanes) {
    Register<A> w[J];
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) w[j] = Convert<T>::load(rows[j] + k);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto value = load_vector<Register<A>>(x + r * x_stride + k);
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) sum[r][j] += value * w[j];
    }
  }
  if (whole < length) {  // the row's last vector overlaps the one before: what was summed is masked out
    B last;
    for (int i = 0; i < lanes; ++i) last[i] = i < lanes - (length - whole) ? 0 : ~Bits<A>(0);
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) {
      const auto w = (Register<A>)((B)Convert<T>::load(rows[j] + length - lanes) & last);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r][j] += load_vector<Register<A>>(x + r * x_stride + whole) * w;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) store_sums<A>(sum[r], out + r * J);
}

// out[j][0 .. V * lanes) of outer.
template <typename X, int V, int J, typename A = accumulate_t<X>>
FACEATTR_INLINE void outer_vectors(const A* const* g, const X* x, int64_t x_stride, int64_t rows,
                                   Register<A> (&sum)[J][V]) {
  constexpr int lanes = kLanes<A>;
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[j][v] = Register<A>{};
  for (int64_t r = 0; r < rows; ++r, x += x_stride) {
    Register<A> value[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) value[v] = Convert<X>::load(x + v * lanes);
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) {
      const Register<A> factor = Convert<A>::broadcast(g[j] + r);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[j][v] += factor * value[v];
    }
  }
}

// The gradients' counterpart of dot: along what dot sums over, so that filters are read or written as they
// lie.
template <typename X, typename Y>
FACEATTR_TARGET void outer(const accumulate_t<X>* const* g, const X* x, int64_t x_stride, int64_t rows,
                           int64_t length, Y* const* out) {
  using A = accumulate_t<X>;
  constexpr int lanes = kLanes<A>, J = TileKernels<X>::kDotRows, V = FACEATTR_REGISTERS / 8;
  int64_t k = 0;
  for (; k + V * lanes <= length; k += V * lanes) {
    Register<A> sum[J][V];
    outer_vectors(g, x + k, x_stride, rows, sum);
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) Convert<Y>::store(out[j] + k + v * lanes, sum[j][v]);
  }
  for (; k < length; k += lanes) {
    // The last vector overlaps the one before.
    const int64_t at = length < lanes || k + lanes <= length ? k : length - lanes;
    Register<A> sum[J][1];
    outer_vectors(g, x + at, x_stride, rows, sum);
    for (int j = 0; j < J; ++j) {
      if (length >= lanes) {
        Convert<Y>::store(out[j] + at, sum[j][0]);
        continue;
      }
      Y row[lanes];
      Convert<Y>::store(row, sum[j][0]);
      for (int64_t i = 0; i < length; ++i) out[j][i] = row[i];
    }
  }
}

#ifdef FACEATTR_PAIRS
FACEATTR_TARGET inline void zip(const BFloat16* from, int64_t step, int64_t second, int64_t length,
                                int64_t runs, BFloat16Pair* to) {
  Vec<uint16_t, 32> mask;
#pragma GCC unroll 32
  for (int i = 0; i < 32; ++i) mask[i] = i / 2 + i % 2 * 16;
  for (int64_t j = 0; j < runs; ++j, from += step, to += length)
    for (int64_t i = 0; i < length; i += 16) {
      const __mmask16 here = length - i < 16 ? (1u << (length - i)) - 1 : 0xffff;
      const __m512i both =
          _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(here, from + i)),
                                   _mm256_maskz_loadu_epi16(here, from + second + i), 1);
      _mm512_mask_storeu_epi32(to + i, here, _mm512_maskz_permutexvar_epi16(~0u, (__m512i)mask, both));
    }
}
#endif

template <typename T, int... R>
constexpr void fill_tiles(TileKernels<T>& k, std::integer_sequence<int, R...>) {
  // As many sums as leave registers for a vector of the panel each and one input element, and for a product
  // where that is not added at once.
  constexpr bool many = FACEATTR_REGISTERS == 32;
  constexpr int most[] = {12, many ? 12 : 6, many ? 8 : 4, 6};
  k.max_vectors = many ? 4 : FACEATTR_VECTOR_BYTES == 32 ? 3 : 2;
  for (int v = 0; v < 4; ++v) k.max_positions[v] = v < k.max_vectors ? most[v] : 0;
  ((k.tile[0][R] = R < most[0] ? &tile<T, 1, R + 1> : nullptr), ...);
  ((k.tile[1][R] = R < most[1] ? &tile<T, 2, (R < most[1] ? R : 0) + 1> : nullptr), ...);
#if FACEATTR_VECTOR_BYTES >= 32
  ((k.tile[2][R] = R < most[2] ? &tile<T, 3, (R < most[2] ? R : 0) + 1> : nullptr), ...);
#endif
#if FACEATTR_REGISTERS == 32
  ((k.tile[3][R] = R < most[3] ? &tile<T, 4, (R < most[3] ? R : 0) + 1> : nullptr), ...);
#endif
}

template <typename T>
constexpr TileKernels<T> make_kernels() {
  TileKernels<T> k{};
  k.lanes = kLanes<accumulate_t<T>>;
  fill_tiles(k, std::make_integer_sequence<int, TileKernels<T>::kMaxPositions>());
  k.pack = &pack<T>;
  k.scatter = &scatter<result_t<T>>;
#ifdef FACEATTR_PAIRS
  k.zip = &zip;
#else
  k.outer = &outer<accumulate_t<T>, T>;
  k.spread = &outer<T, accumulate_t<T>>;
  k.dot[0] = &dot<T, 1>;
  k.dot[1] = &dot<T, 2>;
  k.max_dot_positions = 2;
#if FACEATTR_REGISTERS == 32
  k.dot[2] = &dot<T, 3>;
  k.dot[3] = &dot<T, 4>;
  k.max_dot_positions = 4;
#endif
#endif
  return k;
}

template <typename T>
const TileKernels<T>& kernels() {
  static constexpr TileKernels<T> table = make_kernels<T>();
  return table;
}

#ifdef FACEATTR_PAIRS
template const TileKernels<BFloat16Pair>& kernels<BFloat16Pair>();
#else
template const TileKernels<float>& kernels<float>();
template const TileKernels<double>& kernels<double>();
template const TileKernels<Half>& kernels<Half>();
template const TileKernels<BFloat16>& kernels<BFloat16>();
#endif

}  // namespace faceattr::FACEATTR_ISA
