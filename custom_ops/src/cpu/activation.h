// Epilogues on vectors. NaN stays NaN in each of them.
#pragma once

#include <cmath>

#include "cpu/vector.h"
#include "gn/group_norm.h"

namespace gn::GN_ISA {

// exp(x) for x <= 88: 2^n * exp(r), |r| <= ln(2)/2, with a polynomial of degree 6 (within 2 units in the last place).
inline Vector<float> exp_bounded(Vector<float> x) {
  constexpr float kLog2E = 1.44269504F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const Vector<float> shifted = x * kLog2E + kRound;
  const Vector<float> n = shifted - kRound;
  const Vector<float> r = (x - n * 0.693359375F) - n * -2.12194440e-4F;  // ln(2) in two parts
  Vector<float> p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  const BitsVector<float> exponent = reinterpret_cast<BitsVector<float>>(shifted) << 23;
  return reinterpret_cast<Vector<float>>(reinterpret_cast<BitsVector<float>>(p) + exponent);
}

inline Vector<float> silu(Vector<float> v) {
  // Beyond 87 in magnitude the sigmoid is 0 or 1 to the last bit of any float result that is not subnormal.
  const Vector<float> low = broadcast(-87.0F);
  const Vector<float> high = broadcast(87.0F);
  Vector<float> z = -v;
  z = select<float>(z < low, low, z);
  z = select<float>(z > high, high, z);
  return v / (exp_bounded(z) + 1.0F);
}

inline Vector<double> silu(Vector<double> v) {
  for (int i = 0; i < kWidth<double>; ++i) v[i] = v[i] / (1.0 + std::exp(-v[i]));
  return v;
}

template <Activation kActivation, typename W>
inline Vector<W> activate(Vector<W> v, W alpha) {
  if constexpr (kActivation == Activation::kRelu) {
    return select<W>(v < W{0}, Vector<W>{}, v);
  } else if constexpr (kActivation == Activation::kSilu) {
    return silu(v);
  } else if constexpr (kActivation == Activation::kHardSwish) {
    Vector<W> gate = v * (W{1} / W{6}) + W{0.5};
    gate = select<W>(gate < W{0}, Vector<W>{}, gate);
    gate = select<W>(gate > W{1}, broadcast(W{1}), gate);
    return v * gate;
  } else if constexpr (kActivation == Activation::kLeakyRelu) {
    return select<W>(v < W{0}, v * alpha, v);
  } else {
    return v;
  }
}

}  // namespace gn::GN_ISA
