// Epilogues on vectors. NaN stays NaN in each of them.
#pragma once

#include "cpu/vector.h"
#include "gn/group_norm.h"

namespace gn::GN_ISA {

// What exp of one type needs: ln(2) in two parts, how far its argument may go, and 1/k! for k = 2, 3, ...
template <typename W>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLog2E = 1.44269504F;
  static constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  static constexpr float kLn2High = 0.693359375F;
  static constexpr float kLn2Low = -2.12194440e-4F;
  static constexpr float kLimit = 87.0F;
  static constexpr int kMantissa = 23;
  // Minimax on |r| <= ln(2)/2, 2 units in the last place.
  static constexpr float kSeries[] = {5.0000001201e-1F, 1.6666665459e-1F, 4.1665795894e-2F,
                                      8.3334519073e-3F, 1.3981999507e-3F, 1.9875691500e-4F};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLog2E = 1.4426950408889634;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93147180369123816490e-01;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kLimit = 708.0;
  static constexpr int kMantissa = 52;
  // The Taylor series: its next term is below 2^-58 of the sum.
  static constexpr double kSeries[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                       1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                       1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
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

// v, or kLimit with the sign of v where v is larger; some number where v is NaN.
template <typename W>
GN_INLINE Vector<W> within_limit(Vector<W> v) {
  const Vector<W> limit = broadcast(ExpConstants<W>::kLimit);
#if defined(__AVX512F__)
  constexpr int kSmallerMagnitude = 2;  // with the sign of v
  if constexpr (sizeof(W) == 4) {
    return reinterpret_cast<Vector<W>>(
        _mm512_maskz_range_ps(0xFFFF, reinterpret_cast<__m512>(v), reinterpret_cast<__m512>(limit), kSmallerMagnitude));
  } else {
    return reinterpret_cast<Vector<W>>(
        _mm512_maskz_range_pd(0xFF, reinterpret_cast<__m512d>(v), reinterpret_cast<__m512d>(limit), kSmallerMagnitude));
  }
#else
  const Vector<W> above = v < -limit ? -limit : v;
  return above > limit ? limit : above;
#endif
}

// exp(-x) for |x| <= kLimit: 2^n * exp(r), |r| <= ln(2)/2.
template <typename W>
GN_INLINE Vector<W> exp_of_minus(Vector<W> x) {
  using K = ExpConstants<W>;
  const Vector<W> shifted = x * -K::kLog2E + K::kRound;
  const Vector<W> n = shifted - K::kRound;
  const Vector<W> r = (-x - n * K::kLn2High) - n * K::kLn2Low;
  constexpr int kTerms = sizeof(K::kSeries) / sizeof(W);
  Vector<W> p = broadcast(K::kSeries[kTerms - 1]);
  for (int k = kTerms - 2; k >= 0; --k) p = p * r + K::kSeries[k];
  p = (p * r + W{1}) * r + W{1};
  return reinterpret_cast<Vector<W>>(reinterpret_cast<BitsVector<W>>(p) +
                                     (reinterpret_cast<BitsVector<W>>(shifted) << K::kMantissa));
}

// Beyond the limit the sigmoid is 0 or 1 to the last bit of any result that is not subnormal.
template <typename W>
GN_INLINE Vector<W> silu(Vector<W> v) {
  return v / (exp_of_minus<W>(within_limit<W>(v)) + W{1});
}

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
