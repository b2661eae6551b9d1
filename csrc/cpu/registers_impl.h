// Registers of one instruction set, and what is loaded into them from each dtype and stored from them. For
// tile_kernels_impl.h, which says what is defined before.

namespace faceattr::FACEATTR_ISA {

#define FACEATTR_INLINE FACEATTR_TARGET inline __attribute__((always_inline))

template <typename E, int N>
struct VectorOf {
  typedef E type __attribute__((vector_size(N * sizeof(E))));
};
template <typename E, int N>
using Vec = typename VectorOf<E, N>::type;

template <typename A>
constexpr int kLanes = FACEATTR_VECTOR_BYTES / sizeof(A);
template <typename A>
using Register = Vec<A, kLanes<A>>;

// Integers as wide as T: what is moved and not computed with.
template <int Bytes>
struct BitsOf;
template <>
struct BitsOf<2> {
  using type = uint16_t;
};
template <>
struct BitsOf<4> {
  using type = uint32_t;
};
template <>
struct BitsOf<8> {
  using type = uint64_t;
};
template <typename T>
using Bits = typename BitsOf<sizeof(T)>::type;

template <typename V, typename P>
FACEATTR_INLINE V load_vector(const P* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}

// A register of A from as many elements of T (load), or from one of them (broadcast), and back, rounded
// (store).
template <typename T>
struct Convert {
  static FACEATTR_INLINE Register<T> load(const T* from) { return load_vector<Register<T>>(from); }
  static FACEATTR_INLINE Register<T> broadcast(const T* from) { return *from - Register<T>{}; }
  static FACEATTR_INLINE void store(T* to, Register<T> v) { __builtin_memcpy(to, &v, sizeof(v)); }
};

// How each level converts a register's worth of 16-bit elements to 32 bits and back.
#if FACEATTR_VECTOR_BYTES == 64
FACEATTR_INLINE Vec<uint32_t, 16> widen_words(Vec<uint16_t, 16> words) {
  return (Vec<uint32_t, 16>)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)words);
}
FACEATTR_INLINE Register<float> widen_halves(Vec<uint16_t, 16> halves) {
  return (Register<float>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)halves);
}
FACEATTR_INLINE Vec<uint16_t, 16> narrow_to_halves(Register<float> v) {
  return (Vec<uint16_t, 16>)_mm512_maskz_cvtps_ph(0xffff, (__m512)v,
                                                  _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif FACEATTR_VECTOR_BYTES == 32
FACEATTR_INLINE Vec<uint32_t, 8> widen_words(Vec<uint16_t, 8> words) {
  return (Vec<uint32_t, 8>)_mm256_cvtepu16_epi32((__m128i)words);
}
FACEATTR_INLINE Register<float> widen_halves(Vec<uint16_t, 8> halves) {
  return (Register<float>)_mm256_cvtph_ps((__m128i)halves);
}
FACEATTR_INLINE Vec<uint16_t, 8> narrow_to_halves(Register<float> v) {
  return (Vec<uint16_t, 8>)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
}
#else
FACEATTR_INLINE Vec<uint32_t, 4> widen_words(Vec<uint16_t, 4> words) {
  return __builtin_convertvector(words, Vec<uint32_t, 4>);
}
FACEATTR_INLINE Register<float> widen_halves(Vec<uint16_t, 4> halves) {
  Register<float> v;
  for (int i = 0; i < 4; ++i) v[i] = static_cast<float>(Half(halves[i], Half::from_bits()));
  return v;
}
FACEATTR_INLINE Vec<uint16_t, 4> narrow_to_halves(Register<float> v) {
  Vec<uint16_t, 4> halves;
  for (int i = 0; i < 4; ++i) halves[i] = Half(v[i]).x;
  return halves;
}
#endif

// bfloat16 is the upper half of a float32.
template <>
struct Convert<BFloat16> {
  using Words = Vec<uint32_t, kLanes<float>>;
  static FACEATTR_INLINE Register<float> load(const BFloat16* from) {
    return (Register<float>)(widen_words(load_vector<Vec<uint16_t, kLanes<float>>>(from)) << 16);
  }
  static FACEATTR_INLINE Register<float> broadcast(const BFloat16* from) {
    const auto pairs = Vec<uint16_t, 2 * kLanes<float>>{} + from->x;
    return (Register<float>)((Words)pairs & 0xffff0000u);
  }
  static FACEATTR_INLINE void store(BFloat16* to, Register<float> v) {
    const Words bits = (Words)v, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const Words words = v == v ? rounded : rounded - rounded + 0x7fc0;  // one NaN for all
    const auto halves = __builtin_convertvector(words, Vec<uint16_t, kLanes<float>>);
    __builtin_memcpy(to, &halves, sizeof(halves));
  }
};

template <>
struct Convert<Half> {
  static FACEATTR_INLINE Register<float> load(const Half* from) {
    return widen_halves(load_vector<Vec<uint16_t, kLanes<float>>>(from));
  }
  static FACEATTR_INLINE Register<float> broadcast(const Half* from) {
    return widen_halves(Vec<uint16_t, kLanes<float>>{} + from->x);
  }
  static FACEATTR_INLINE void store(Half* to, Register<float> v) {
    const auto halves = narrow_to_halves(v);
    __builtin_memcpy(to, &halves, sizeof(halves));
  }
};

template <typename V>
FACEATTR_INLINE V add_product(V sum, V a, V b) {
  return sum + a * b;
}

#ifdef FACEATTR_PAIRS
// Pairs stay what they are: their two products are added in float32, the second element's first.
template <>
struct Convert<BFloat16Pair> {
  using Pairs = Vec<uint32_t, kLanes<float>>;
  static FACEATTR_INLINE Pairs load(const BFloat16Pair* from) { return load_vector<Pairs>(from); }
  static FACEATTR_INLINE Pairs broadcast(const BFloat16Pair* from) {
    return load_vector<uint32_t>(from) - Pairs{};
  }
};
FACEATTR_INLINE Register<float> add_product(Register<float> sum, Vec<uint32_t, 16> a, Vec<uint32_t, 16> b) {
  return (Register<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#endif

}  // namespace faceattr::FACEATTR_ISA
