// Vectors of the width that this translation unit is compiled for, and how elements of each type become one.
//
// The file is compiled once per instruction set inside a namespace of its own (GN_ISA), so nothing here has linkage
// outside of it. GCC's vector extensions give the arithmetic; intrinsics are used only for what they cannot say:
// float16, masks, and stores past the cache.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/half.h"

// A call would pass vectors through memory or spill what is held in registers around it.
#define GN_INLINE [[gnu::always_inline]] inline

namespace gn::GN_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

// What a type is computed in: double for double, float for everything else.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename W>
inline constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(W));

template <typename W>
struct VectorOf {
  typedef W Type __attribute__((vector_size(kVectorBytes)));
  using Bits = std::conditional_t<sizeof(W) == 8, std::uint64_t, std::uint32_t>;  // they wrap around
  typedef Bits BitsType __attribute__((vector_size(kVectorBytes)));
};
template <typename W>
using Vector = typename VectorOf<W>::Type;
template <typename W>
using BitsVector = typename VectorOf<W>::BitsType;
typedef float HalfVector __attribute__((vector_size(kVectorBytes / 2)));
typedef std::uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
typedef std::uint32_t Words __attribute__((vector_size(kVectorBytes)));

template <typename W>
inline Vector<W> broadcast(W value) {
  return value - Vector<W>{};  // -0 too
}

template <typename To, typename From>
inline To load_bits(const From* from) {
  To to;
  std::memcpy(&to, from, sizeof(to));
  return to;
}

#if !defined(__AVX512F__)
// Lane by lane between 16 and 32 bits; GCC makes detours of its own conversions. to_narrow takes lanes below 2^16.
GN_INLINE Words to_words(Narrow bits) {
#if defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(bits)));
#else
  return __builtin_convertvector(bits, Words);
#endif
}
GN_INLINE Narrow to_narrow(Words words) {
#if defined(__AVX2__)
  const __m256i pairs = _mm256_packus_epi32(reinterpret_cast<__m256i>(words), reinterpret_cast<__m256i>(words));
  return reinterpret_cast<Narrow>(_mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0xD8)));
#else
  return __builtin_convertvector(words, Narrow);
#endif
}
#endif

// In one instruction; GCC's own conversions of 512 bits are made in two halves.
GN_INLINE Vector<double> to_double(HalfVector v) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtps_pd(0xFF, v);
#else
  return __builtin_convertvector(v, Vector<double>);
#endif
}
GN_INLINE HalfVector to_float(Vector<double> v) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtpd_ps(0xFF, v);
#else
  return __builtin_convertvector(v, HalfVector);
#endif
}

GN_INLINE HalfVector half_of(Vector<float> v, int index) {
  HalfVector halves[2];
  std::memcpy(halves, &v, sizeof(v));
  return halves[index];
}

// The sum of all lanes, pairwise.
template <typename W, typename V>
GN_INLINE W sum_of_lanes(V v) {
  if constexpr (sizeof(V) == 2 * sizeof(W)) {
    return v[0] + v[1];
  } else {
    typedef W Part __attribute__((vector_size(sizeof(V) / 2)));
    Part parts[2];
    std::memcpy(parts, &v, sizeof(v));
    return sum_of_lanes<W>(parts[0] + parts[1]);
  }
}

// The bits of v, rounded to bfloat16 in the upper half of each word: to nearest, ties to even. A NaN stays one: the
// lower half of its bits is 0, as of every NaN that comes from a bfloat16, from arithmetic or is `alpha`, so that
// rounding does not carry.
GN_INLINE Words rounded_to_upper_half(Vector<float> v) {
  const Words bits = reinterpret_cast<Words>(v);
#if defined(__AVX512F__)
  const auto words = reinterpret_cast<__m512i>(bits);
  const __mmask16 odd = _mm512_test_epi32_mask(words, _mm512_set1_epi32(0x10000));
  const __m512i down = _mm512_add_epi32(words, _mm512_set1_epi32(0x7FFF));
  return reinterpret_cast<Words>(_mm512_mask_add_epi32(down, odd, words, _mm512_set1_epi32(0x8000)));
#else
  return bits + 0x7FFFU + ((bits >> 16) & 1U);
#endif
}

#if defined(__AVX512F__)
GN_INLINE Vector<float> widen(Narrow bits, BFloat16) {
  return reinterpret_cast<Vector<float>>(
      reinterpret_cast<Words>(_mm512_maskz_cvtepu16_epi32(0xFFFF, reinterpret_cast<__m256i>(bits))) << 16);
}
GN_INLINE Narrow narrow(Vector<float> v, BFloat16) {
  alignas(64) static constexpr std::uint16_t kUpper[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i order = _mm512_load_si512(kUpper);
  const auto rounded = reinterpret_cast<__m512i>(rounded_to_upper_half(v));
  const __m512i upper = _mm512_maskz_permutexvar_epi16(0xFFFFFFFF, order, rounded);
  return load_bits<Narrow>(&upper);
}
#else
GN_INLINE Vector<float> widen(Narrow bits, BFloat16) { return reinterpret_cast<Vector<float>>(to_words(bits) << 16); }
GN_INLINE Narrow narrow(Vector<float> v, BFloat16) { return to_narrow(rounded_to_upper_half(v) >> 16); }
#endif

#if defined(__AVX512F__)
// With a full mask: the forms without one start from an undefined value, of which GCC warns.
GN_INLINE Vector<float> widen(Narrow bits, Half) {
  return reinterpret_cast<Vector<float>>(_mm512_maskz_cvtph_ps(0xFFFF, reinterpret_cast<__m256i>(bits)));
}
GN_INLINE Narrow narrow(Vector<float> v, Half) {
  return reinterpret_cast<Narrow>(
      _mm512_maskz_cvtps_ph(0xFFFF, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
GN_INLINE Vector<float> widen(Narrow bits, Half) {
  return reinterpret_cast<Vector<float>>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(bits)));
}
GN_INLINE Narrow narrow(Vector<float> v, Half) {
  return reinterpret_cast<Narrow>(
      _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
// float16 by integer and float arithmetic: exact for subnormals too, since a power of two scales them.
GN_INLINE Vector<float> widen(Narrow bits, Half) {
  const Words half = to_words(bits);
  const Words magnitude = (half & 0x7FFFU) << 13;
  const Words finite = reinterpret_cast<Words>(reinterpret_cast<Vector<float>>(magnitude) * 0x1p112F);
  const Words value = magnitude >= (0x7C00U << 13) ? (magnitude | 0x7F800000U) : finite;
  return reinterpret_cast<Vector<float>>(value | ((half & 0x8000U) << 16));
}
GN_INLINE Narrow narrow(Vector<float> v, Half) {
  Narrow out;
  for (int i = 0; i < kWidth<float>; ++i) out[i] = to_half(v[i]);
  return out;
}
#endif

template <typename T>
GN_INLINE Vector<Wide<T>> load(const T* p) {
  if constexpr (sizeof(T) == 2) {
    return widen(load_bits<Narrow>(p), T{});
  } else {
    return load_bits<Vector<T>>(p);
  }
}

// kStream writes past the cache, and asks for p to be aligned to the bytes written.
template <bool kStream, typename Bits>
GN_INLINE void store_bits(void* p, Bits bits) {
#if defined(__x86_64__)
  if constexpr (kStream && sizeof(bits) == 16) {
    _mm_stream_si128(static_cast<__m128i*>(p), reinterpret_cast<__m128i>(bits));
    return;
  }
#endif
#if defined(__AVX__)
  if constexpr (kStream && sizeof(bits) == 32) {
    _mm256_stream_si256(static_cast<__m256i*>(p), reinterpret_cast<__m256i>(bits));
    return;
  }
#endif
#if defined(__AVX512F__)
  if constexpr (kStream && sizeof(bits) == 64) {
    _mm512_stream_si512(static_cast<__m512i*>(p), reinterpret_cast<__m512i>(bits));
    return;
  }
#endif
  std::memcpy(p, &bits, sizeof(bits));
}

template <bool kStream = false, typename T>
GN_INLINE void store(T* p, Vector<Wide<T>> v) {
  if constexpr (sizeof(T) == 2) {
    store_bits<kStream>(p, narrow(v, T{}));
  } else {
    store_bits<kStream>(p, v);
  }
}

// What is loaded and stored at once: a vector; for bfloat16 two, the even elements and the odd ones, which saves
// spreading and packing them.
template <typename T>
inline constexpr int kBlockVectors = std::is_same_v<T, BFloat16> ? 2 : 1;
template <typename T>
struct Block {
  Vector<Wide<T>> vectors[kBlockVectors<T>];
};

template <typename T>
GN_INLINE Block<T> load_block(const T* p) {
  if constexpr (kBlockVectors<T> == 2) {
    const Words words = load_bits<Words>(p);
    return {{reinterpret_cast<Vector<float>>(words << 16), reinterpret_cast<Vector<float>>(words & 0xFFFF0000U)}};
  } else {
    return {{load(p)}};
  }
}

template <bool kStream = false, typename T>
GN_INLINE void store_block(T* p, const Block<T>& block) {
  if constexpr (kBlockVectors<T> == 2) {
    const Words even = rounded_to_upper_half(block.vectors[0]) >> 16;
    const Words odd = rounded_to_upper_half(block.vectors[1]);
#if defined(__AVX512F__)
    store_bits<kStream>(
        p, _mm512_mask_blend_epi16(0xAAAAAAAA, reinterpret_cast<__m512i>(even), reinterpret_cast<__m512i>(odd)));
#elif defined(__AVX2__)
    store_bits<kStream>(p, _mm256_blend_epi16(reinterpret_cast<__m256i>(even), reinterpret_cast<__m256i>(odd), 0xAA));
#else
    store_bits<kStream>(p, even | (odd & 0xFFFF0000U));
#endif
  } else {
    store<kStream>(p, block.vectors[0]);
  }
}

// Asks for what lies `ahead` elements behind p in the second cache; it need not exist.
template <typename T>
GN_INLINE void prefetch(const T* p, std::int64_t ahead) {
  const auto address = reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(ahead) * sizeof(T);
  __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2);
}

// Stores past the cache become visible in order again.
inline void end_of_stream() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

#if defined(__AVX512F__)
// `count` elements, fewer than a vector; the other lanes are `fill`.
template <typename T>
GN_INLINE Vector<Wide<T>> load_partial(const T* p, std::int64_t count, Wide<T> fill) {
  const std::uint32_t mask = (1U << count) - 1U;
  if constexpr (sizeof(T) == 8) {
    return reinterpret_cast<Vector<double>>(
        _mm512_mask_loadu_pd(reinterpret_cast<__m512d>(broadcast(fill)), static_cast<__mmask8>(mask), p));
  } else if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vector<float>>(
        _mm512_mask_loadu_ps(reinterpret_cast<__m512>(broadcast(fill)), static_cast<__mmask16>(mask), p));
  } else {
    const auto bits = reinterpret_cast<Narrow>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p));
    return reinterpret_cast<Vector<float>>(_mm512_mask_mov_ps(reinterpret_cast<__m512>(broadcast(fill)),
                                                              static_cast<__mmask16>(mask),
                                                              reinterpret_cast<__m512>(widen(bits, T{}))));
  }
}

template <typename T>
GN_INLINE void store_partial(T* p, Vector<Wide<T>> v, std::int64_t count) {
  const std::uint32_t mask = (1U << count) - 1U;
  if constexpr (sizeof(T) == 8) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), reinterpret_cast<__m512d>(v));
  } else if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), reinterpret_cast<__m512>(v));
  } else {
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), reinterpret_cast<__m256i>(narrow(v, T{})));
  }
}
#else
template <typename T>
GN_INLINE Vector<Wide<T>> load_partial(const T* p, std::int64_t count, Wide<T> fill) {
  T buffer[kWidth<Wide<T>>] = {};
  std::memcpy(buffer, p, static_cast<std::size_t>(count) * sizeof(T));
  Vector<Wide<T>> v = load(buffer);
  for (std::int64_t i = count; i < kWidth<Wide<T>>; ++i) v[i] = fill;
  return v;
}

template <typename T>
GN_INLINE void store_partial(T* p, Vector<Wide<T>> v, std::int64_t count) {
  T buffer[kWidth<Wide<T>>];
  store(buffer, v);
  std::memcpy(p, buffer, static_cast<std::size_t>(count) * sizeof(T));
}
#endif

}  // namespace gn::GN_ISA
