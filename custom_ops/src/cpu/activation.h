// Epilogues on vectors. NaN stays NaN in each of them.
#pragma once

#include "cpu/vector.h"
#include "gn/group_norm.h"

namespace gn::GN_ISA {

// What 2^t of one type needs: how far t may go, and the polynomial that 2^f is between two whole numbers.
template <typename W>
struct Exp2Constants;

template <>
struct Exp2Constants<float> {
  static constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  static constexpr float kLimit = 125.0F;
  static constexpr int kMantissa = 23;
  // Minimax in the relative error, then rounded to float one by one: 2.3 (2.6) units of 2^-24 with the evaluation.
#if defined(__AVX512F__)
  // 0 <= f < 1
  static constexpr float kSeries[] = {0x1.fffffep-1F, 0x1.62e4eap-1F, 0x1.ebd6c4p-3F,
                                      0x1.c9499p-5F,  0x1.26bccep-7F, 0x1.ebab52p-10F};
#else
  // |f| <= 1/2
  static constexpr float kSeries[] = {1.0F,           0x1.62e42ap-1F, 0x1.ebf9c2p-3F,
                                      0x1.c6b6dap-5F, 0x1.3ce8b2p-7F, 0x1.5bd97ap-10F};
#endif
};

template <>
struct Exp2Constants<double> {
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLimit = 1020.0;
  static constexpr int kMantissa = 52;
  // ln(2)^k / k!, the Taylor series, for |f| <= 1/2: its next term is below 2^-57 of the sum.
  static constexpr double kSeries[] = {0x1p+0,
                                       0x1.62e42fefa39efp-1,
                                       0x1.ebfbdff82c58fp-3,
                                       0x1.c6b08d704a0cp-5,
                                       0x1.3b2ab6fba4e77p-7,
                                       0x1.5d87fe78a6731p-10,
                                       0x1.430912f86c787p-13,
                                       0x1.ffcbfc588b0c7p-17,
                                       0x1.62c0223a5c824p-20,
                                       0x1.b5253d395e7c4p-24,
                                       0x1.e4cf5158b8ecap-28,
                                       0x1.e8cac7351bb25p-32,
                                       0x1.c3bd650fc2986p-36,
                                       0x1.816193166d0f9p-40};
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
#endif
  return v > most ? most : v;
}

// The polynomial of Exp2Constants.
template <typename W>
GN_INLINE Vector<W> exp2_series(Vector<W> f) {
  constexpr auto& kSeries = Exp2Constants<W>::kSeries;
  constexpr int kTerms = sizeof(kSeries) / sizeof(W);
  Vector<W> p = broadcast(kSeries[kTerms - 1]);
  for (int k = kTerms - 2; k >= 0; --k) p = p * f + kSeries[k];
  return p;
}

// SiLU is computed from h = kSiluGain * v, so that the exponential's argument 2 h is exact: 1 + exp(-v) = 1 + 2^(2 h).
inline constexpr double kSiluGain = -0.72134752044448170368;  // -log2(e) / 2, which overflows for no v

// v / (1 + exp(-v)), of h. Where v is below -86 (-707 for double), what it is there: below 2^-118 (2^-1010).
template <typename W>
GN_INLINE Vector<W> silu(Vector<W> h) {
  using K = Exp2Constants<W>;
  constexpr W kGain = static_cast<W>(kSiluGain);
  h = smaller_or_nan<W>(broadcast(K::kLimit / 2), h);
#if defined(__AVX512F__)
  if constexpr (sizeof(W) == 4) {
    constexpr int kLessFloor = 1;
    const auto t = reinterpret_cast<__m512>(h + h);
    const auto f = reinterpret_cast<Vector<W>>(_mm512_maskz_reduce_ps(0xFFFF, t, kLessFloor));
    const auto e =
        reinterpret_cast<Vector<W>>(_mm512_maskz_scalef_ps(0xFFFF, reinterpret_cast<__m512>(exp2_series<W>(f)), t));
    const Vector<W> divisor = e * kGain + kGain;
    // 14 bits, and a step of Newton's method: a quarter of the time that a division takes.
    const auto near = reinterpret_cast<Vector<W>>(_mm512_maskz_rcp14_ps(0xFFFF, reinterpret_cast<__m512>(divisor)));
    return h * (near * (W{1} - divisor * near) + near);
  }
#endif
  const Vector<W> t = larger_or_nan<W>(broadcast(-K::kLimit), h + h);
  const Vector<W> shifted = t + K::kRound;
  const Vector<W> p = exp2_series<W>(t - (shifted - K::kRound));
  const auto e = reinterpret_cast<Vector<W>>(reinterpret_cast<BitsVector<W>>(p) +
                                             (reinterpret_cast<BitsVector<W>>(shifted) << K::kMantissa));
  return h / (e * kGain + kGain);
}

// What the affine part is multiplied by for `activate`.
inline constexpr double gain_of(Activation activation) { return activation == Activation::kSilu ? kSiluGain : 1.0; }

// activation(v), of gain_of(activation) * v.
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
