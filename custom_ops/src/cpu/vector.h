// Vectors of the width that this translation unit is compiled for, and how elements of each type become one.
//
// The file is compiled once per instruction set inside a namespace of its own (GN_ISA), so nothing here has linkage
// outside of it. GCC's vector extensions give the arithmetic; intrinsics are used only for float16, which has none.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace gn::GN_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

// What a type is computed in: double for double, float for everything else.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename W>
inline constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(W));

template <typename W>
struct VectorOf {
  typedef W Type __attribute__((vector_size(kVectorBytes)));
  using Bits = std::conditional_t<sizeof(W) == 8, std::int64_t, std::int32_t>;
  typedef Bits BitsType __attribute__((vector_size(kVectorBytes)));
};
template <typename W>
using Vector = typename VectorOf<W>::Type;
template <typename W>
using BitsVector = typename VectorOf<W>::BitsType;

template <typename W>
inline Vector<W> broadcast(W value) {
  return Vector<W>{} + value;
}

template <typename W>
inline Vector<W> select(BitsVector<W> mask, Vector<W> yes, Vector<W> no) {
  return reinterpret_cast<Vector<W>>((mask & reinterpret_cast<BitsVector<W>>(yes)) |
                                     (~mask & reinterpret_cast<BitsVector<W>>(no)));
}

template <typename To, typename From>
inline To load_bits(const From* from) {
  To to;
  std::memcpy(&to, from, sizeof(to));
  return to;
}

typedef std::uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
typedef std::uint32_t Words __attribute__((vector_size(kVectorBytes)));

inline Vector<float> load(const float* p) { return load_bits<Vector<float>>(p); }
inline Vector<double> load(const double* p) { return load_bits<Vector<double>>(p); }
inline void store(float* p, Vector<float> v) { std::memcpy(p, &v, sizeof(v)); }
inline void store(double* p, Vector<double> v) { std::memcpy(p, &v, sizeof(v)); }

inline Vector<float> load(const BFloat16* p) {
  return reinterpret_cast<Vector<float>>(__builtin_convertvector(load_bits<Narrow>(p), Words) << 16);
}

// Rounds to nearest, ties to even; a NaN keeps its sign and becomes quiet.
inline void store(BFloat16* p, Vector<float> v) {
  const Words bits = reinterpret_cast<Words>(v);
  const Words rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  const Words quiet = (bits >> 16) | 0x40U;
  const Words is_nan = reinterpret_cast<Words>(v != v);
  const Narrow narrow = __builtin_convertvector((is_nan & quiet) | (~is_nan & rounded), Narrow);
  std::memcpy(p, &narrow, sizeof(narrow));
}

#if defined(__AVX512F__)
// With a full zero mask: the forms without one start from an undefined value, of which GCC warns.
inline Vector<float> load(const Half* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<Vector<float>>(_mm512_maskz_cvtph_ps(0xFFFF, halves));
}
inline void store(Half* p, Vector<float> v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xFFFF, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
inline Vector<float> load(const Half* p) {
  return reinterpret_cast<Vector<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline void store(Half* p, Vector<float> v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
// float16 by integer and float arithmetic: exact for subnormals too, since a power of two scales them.
inline Vector<float> load(const Half* p) {
  const Words half = __builtin_convertvector(load_bits<Narrow>(p), Words);
  const Words sign = (half & 0x8000U) << 16;
  const Words magnitude = (half & 0x7FFFU) << 13;
  const Vector<float> scaled = reinterpret_cast<Vector<float>>(magnitude) * 0x1p112F;
  const Words special = reinterpret_cast<Words>(magnitude >= (0x7C00U << 13));
  const Words value = (special & (magnitude | 0x7F800000U)) | (~special & reinterpret_cast<Words>(scaled));
  return reinterpret_cast<Vector<float>>(value | sign);
}

inline std::uint16_t to_half(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  bits &= 0x7FFFFFFFU;
  if (bits > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U);
  if (bits >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // rounds to 65536 or above
  if (bits < 0x38800000U) {  // subnormal: adding 0.5 leaves the rounded value in the low mantissa bits
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof(magnitude));
    magnitude += 0.5F;
    std::memcpy(&bits, &magnitude, sizeof(bits));
    return static_cast<std::uint16_t>(sign | (bits - 0x3F000000U));
  }
  return static_cast<std::uint16_t>(sign | ((bits - 0x38000000U + 0xFFFU + ((bits >> 13) & 1U)) >> 13));
}

inline void store(Half* p, Vector<float> v) {
  for (int i = 0; i < kWidth<float>; ++i) p[i].bits = to_half(v[i]);
}
#endif

// `count` elements, fewer than a vector; the other lanes are `fill`. Rows of a few elements are mostly this, so
// AVX-512, which has masks for it, gets overloads below.
template <typename T>
inline Vector<Wide<T>> load_partial(const T* p, std::int64_t count, Wide<T> fill) {
  T buffer[kWidth<Wide<T>>] = {};
  std::memcpy(buffer, p, static_cast<std::size_t>(count) * sizeof(T));
  Vector<Wide<T>> v = load(buffer);
  for (std::int64_t i = count; i < kWidth<Wide<T>>; ++i) v[i] = fill;
  return v;
}

template <typename T>
inline void store_partial(T* p, Vector<Wide<T>> v, std::int64_t count) {
  T buffer[kWidth<Wide<T>>];
  store(buffer, v);
  std::memcpy(p, buffer, static_cast<std::size_t>(count) * sizeof(T));
}

#if defined(__AVX512F__)
inline Vector<float> load_partial(const float* p, std::int64_t count, float fill) {
  const auto mask = static_cast<__mmask16>((1U << count) - 1U);
  return reinterpret_cast<Vector<float>>(_mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask, p));
}
inline void store_partial(float* p, Vector<float> v, std::int64_t count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << count) - 1U), reinterpret_cast<__m512>(v));
}
inline Vector<float> load_partial(const Half* p, std::int64_t count, float fill) {
  const auto mask = static_cast<__mmask16>((1U << count) - 1U);
  const __m512 values = _mm512_maskz_cvtph_ps(0xFFFF, _mm256_maskz_loadu_epi16(mask, p));
  return reinterpret_cast<Vector<float>>(_mm512_mask_mov_ps(_mm512_set1_ps(fill), mask, values));
}
inline void store_partial(Half* p, Vector<float> v, std::int64_t count) {
  const __m256i halves = _mm512_maskz_cvtps_ph(0xFFFF, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1U << count) - 1U), halves);
}
#endif

// The sum of all lanes in double, by halves: the same tree whatever the values.
inline double lane_sum(Vector<double> v) {
  double parts[kWidth<double>];
  std::memcpy(parts, &v, sizeof(v));
  for (int half = kWidth<double> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

typedef float HalfVector __attribute__((vector_size(kVectorBytes / 2)));

// Lanes widened to double, two by two.
inline Vector<double> widened(Vector<float> v) {
  HalfVector parts[2];
  std::memcpy(parts, &v, sizeof(v));
  return __builtin_convertvector(parts[0], Vector<double>) + __builtin_convertvector(parts[1], Vector<double>);
}
inline Vector<double> widened(Vector<double> v) { return v; }

// One element, for vectors of parameters.
template <typename T>
inline Wide<T> load_one(const T* p) {
  return load_partial(p, 1, Wide<T>{})[0];
}
inline float load_one(const float* p) { return *p; }
inline double load_one(const double* p) { return *p; }

}  // namespace gn::GN_ISA
