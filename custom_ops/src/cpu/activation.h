// Epilogues on vectors. NaN stays NaN in each of them.
#pragma once

#include "cpu/vector.h"
#include "gn/group_norm.h"

namespace gn::GN_ISA {

// What e^-v of one type needs. It is 2^n e^-r: n is the multiple of 1 / kSteps next to -v log2(e), and r is
// v + n ln(2).
template <typename W>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr int kMantissa = 23;
  static constexpr float kLowest = -88.0F;
  static constexpr float kLn2[] = {0x1.62e4p-1F, 0x1.7f7d1cp-20F};  // n times the first is exact
  // Minimax in the relative error, then rounded to float one by one; the first term is 1, so that silu(v) is v / 2 for
  // every small v. Beside it the error in units of 2^-24, before the evaluation's roundings.
#if defined(__AVX512F__)
  static constexpr int kSteps = 32;
  static constexpr float kSeries[] = {1.0F, -0x1.0000f6p+0F, 0x1.00004ap-1F};  // 0.9
#elif defined(__AVX2__)
  static constexpr int kSteps = 8;
  static constexpr float kSeries[] = {1.0F, -1.0F, 0x1.000874p-1F, -0x1.555698p-3F};  // 0.5
#else
  static constexpr int kSteps = 1;
  static constexpr float kSeries[] = {1.0F,           -0x1.fffff6p-1F, 0x1.fffdc6p-2F, -0x1.555a7cp-3F,
                                      0x1.573a1cp-5F, -0x1.0fa1f8p-7F};  // 1.6
#endif
};

template <>
struct ExpConstants<double> {
  static constexpr int kMantissa = 52;
  static constexpr double kLowest = -709.0;
  static constexpr double kLn2[] = {0x1.62e42fefa38p-1, 0x1.ef35793c7673p-45};
  static constexpr int kSteps = 1;
  // (-1)^k / k!, the Taylor series: its next term is below 2^-57 of the sum.
  static constexpr double kSeries[] = {1.0,
                                       -1.0,
                                       0x1p-1,
                                       -0x1.5555555555555p-3,
                                       0x1.5555555555555p-5,
                                       -0x1.1111111111111p-7,
                                       0x1.6c16c16c16c17p-10,
                                       -0x1.a01a01a01a01ap-13,
                                       0x1.a01a01a01a01ap-16,
                                       -0x1.71de3a556c734p-19,
                                       0x1.27e4fb7789f5cp-22,
                                       -0x1.ae64567f544e4p-26,
                                       0x1.1eed8eff8d898p-29,
                                       -0x1.6124613a86d09p-33};
};

// The larger of the two; v where it is NaN.
template <typename W>
GN_INLINE Vector<W> larger_or_nan(Vector<W> least, Vector<W> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(W) == 4) {
    return reinterpret_cast<Vector<W>>(
        _mm512_maskz_max_ps(0xFFFF, reinterpret_cast<__m512>(least), reinterpret_cast<__m512>(v)));
  }
#elif defined(__AVX__)
  if constexpr (sizeof(W) == 4) {
    return reinterpret_cast<Vector<W>>(_mm256_max_ps(reinterpret_cast<__m256>(least), reinterpret_cast<__m256>(v)));
  }
#elif defined(__SSE__)
  if constexpr (sizeof(W) == 4) {
    return reinterpret_cast<Vector<W>>(_mm_max_ps(reinterpret_cast<__m128>(least), reinterpret_cast<__m128>(v)));
  }
#endif
  return v < least ? least : v;
}

// The smaller of the two; v where it is NaN.
template <typename W>
GN_INLINE Vector<W> smaller_or_nan(Vector<W> most, Vector<W> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(W) == 4) {
    return reinterpret_cast<Vector<W>>(
        _mm512_maskz_min_ps(0xFFFF, reinterpret_cast<__m512>(most), reinterpret_cast<__m512>(v)));
  }
#elif defined(__AVX__)
  if constexpr (sizeof(W) == 4) {
    return reinterpret_cast<Vector<W>>(_mm256_min_ps(reinterpret_cast<__m256>(most), reinterpret_cast<__m256>(v)));
  }
#elif defined(__SSE__)
  if constexpr (sizeof(W) == 4) {
    return reinterpret_cast<Vector<W>>(_mm_min_ps(reinterpret_cast<__m128>(most), reinterpret_cast<__m128>(v)));
  }
#endif
  return v > most ? most : v;
}

// The polynomial of ExpConstants.
template <typename W>
GN_INLINE Vector<W> exp_series(Vector<W> r) {
  constexpr auto& kSeries = ExpConstants<W>::kSeries;
  constexpr int kTerms = sizeof(kSeries) / sizeof(W);
  Vector<W> p = broadcast(kSeries[kTerms - 1]);
  for (int k = kTerms - 2; k >= 0; --k) p = p * r + kSeries[k];
  return p;
}

// 2^n, where the low bits of `steps` are n * kSteps.
template <typename W>
GN_INLINE Vector<W> exp2_of_steps(BitsVector<W> steps, [[maybe_unused]] Vector<W> n) {
  using K = ExpConstants<W>;
#if defined(__AVX512F__)
  if constexpr (sizeof(W) == 4) {
    // 2^(k / 32), of which scalef takes what n is above a whole number.
    alignas(kVectorBytes) static constexpr float kPowers[K::kSteps] = {
        0x1.000000p+0F, 0x1.059b0ep+0F, 0x1.0b5586p+0F, 0x1.11301ep+0F, 0x1.172b84p+0F, 0x1.1d4874p+0F, 0x1.2387a6p+0F,
        0x1.29e9e0p+0F, 0x1.306fe0p+0F, 0x1.371a74p+0F, 0x1.3dea64p+0F, 0x1.44e086p+0F, 0x1.4bfdaep+0F, 0x1.5342b6p+0F,
        0x1.5ab07ep+0F, 0x1.6247ecp+0F, 0x1.6a09e6p+0F, 0x1.71f75ep+0F, 0x1.7a1148p+0F, 0x1.82589ap+0F, 0x1.8ace54p+0F,
        0x1.93737cp+0F, 0x1.9c4918p+0F, 0x1.a5503cp+0F, 0x1.ae89fap+0F, 0x1.b7f770p+0F, 0x1.c199bep+0F, 0x1.cb720ep+0F,
        0x1.d5818ep+0F, 0x1.dfc974p+0F, 0x1.ea4afap+0F, 0x1.f50766p+0F};
    const auto power =
        _mm512_maskz_permutex2var_ps(0xFFFF, reinterpret_cast<__m512>(load(kPowers)), reinterpret_cast<__m512i>(steps),
                                     reinterpret_cast<__m512>(load(kPowers + kWidth<W>)));
    return reinterpret_cast<Vector<W>>(_mm512_maskz_scalef_ps(0xFFFF, power, reinterpret_cast<__m512>(n)));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(W) == 4) {
    // The bits of 2^(k / 8), less what k adds to them when it is shifted to where n belongs.
    alignas(kVectorBytes) static constexpr std::uint32_t kPowers[K::kSteps] = {
        0x3F800000, 0x3F7B95C2, 0x3F7837F0, 0x3F75FED7, 0x3F7504F3, 0x3F75672A, 0x3F7744FD, 0x3F7AC0C7};
    const auto power = reinterpret_cast<BitsVector<W>>(
        _mm256_permutevar8x32_epi32(load_bits<__m256i>(kPowers), reinterpret_cast<__m256i>(steps)));
    return reinterpret_cast<Vector<W>>(power + (steps << (K::kMantissa - 3)));
  }
#endif
  return reinterpret_cast<Vector<W>>(reinterpret_cast<BitsVector<W>>(broadcast(W{1})) + (steps << K::kMantissa));
}

// v + n ln(2), which is small. Its product may not be rounded, whatever the compiler is allowed to contract.
template <typename W>
GN_INLINE Vector<W> plus_multiple_of_ln2(Vector<W> v, Vector<W> n) {
#if defined(__AVX512F__) || defined(__FMA__)
  if constexpr (sizeof(W) == 4) {
    const Vector<float> ln2 = broadcast(0.693147181F);
#if defined(__AVX512F__)
    return reinterpret_cast<Vector<W>>(
        _mm512_fmadd_ps(reinterpret_cast<__m512>(n), reinterpret_cast<__m512>(ln2), reinterpret_cast<__m512>(v)));
#else
    return reinterpret_cast<Vector<W>>(
        _mm256_fmadd_ps(reinterpret_cast<__m256>(n), reinterpret_cast<__m256>(ln2), reinterpret_cast<__m256>(v)));
#endif
  }
#endif
  constexpr auto& kLn2 = ExpConstants<W>::kLn2;
  return (n * kLn2[0] + v) + n * kLn2[1];
}

// v / (1 + exp(-v)), with a true division: only the exponential is not correctly rounded. Where v is below kLowest,
// what it is there or -0.
template <typename W>
GN_INLINE Vector<W> silu(Vector<W> v) {
  using K = ExpConstants<W>;
  constexpr W kMinusLog2E = static_cast<W>(-1.4426950408889634074);
  // Adding it leaves the nearest multiple of 1 / kSteps in the low bits.
  constexpr W kRound = W{1.5} * static_cast<W>(std::uint64_t{1} << K::kMantissa) / W{K::kSteps};
  constexpr W kHighest = W{80};  // silu(v) is v long before; and r stays small, were v infinite
#if defined(__AVX512F__)
  // 2^n may overflow: the quotient is -0 then.
  constexpr bool kScaled = sizeof(W) == 4;
#else
  constexpr bool kScaled = false;
#endif
  if constexpr (!kScaled) v = larger_or_nan<W>(broadcast(K::kLowest), v);
  const Vector<W> bounded = smaller_or_nan<W>(broadcast(kHighest), v);
  const Vector<W> shifted = bounded * kMinusLog2E + kRound;
  const Vector<W> n = shifted - kRound;
  const Vector<W> r = plus_multiple_of_ln2<W>(bounded, n);
  return v / (exp2_of_steps<W>(reinterpret_cast<BitsVector<W>>(shifted), n) * exp_series<W>(r) + W{1});
}

// activation(v).
template <Activation kActivation, typename W>
GN_INLINE Vector<W> activate(Vector<W> v, W alpha) {
  const Vector<W> zero = {};
  if constexpr (kActivation == Activation::kRelu) {
    return larger_or_nan<W>(zero, v);
  } else if constexpr (kActivation == Activation::kSilu) {
    return silu<W>(v);
  } else if constexpr (kActivation == Activation::kHardSwish) {
    const Vector<W> one = broadcast(W{1});
    Vector<W> gate = v * (W{1} / W{6}) + W{0.5};
    gate = gate < zero ? zero : gate;
    gate = gate > one ? one : gate;
    return v * gate;
  } else if constexpr (kActivation == Activation::kLeakyRelu) {
    return v < zero ? v * alpha : v;
  } else {
    return v;
  }
}

}  // namespace gn::GN_ISA
