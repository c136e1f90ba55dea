// The activations that may follow the affine step, in float. NaN in, NaN out.
#pragma once

#include "element.cuh"
#include "gn/group_norm.h"

namespace gn::cuda {

// Half types round the result to 11 or 8 bits, so the fast exponential (about 2^-21) is exact enough for them.
template <typename T>
GN_DEVICE float silu(float v) {
  return divide_fast(v, 1.0F + exponential_fast(-v));
}
template <>
GN_DEVICE float silu<float>(float v) {
  return v / (1.0F + exponential(-v));
}

template <Activation kActivation, typename T>
GN_DEVICE float activate(float v, float alpha) {
  if constexpr (kActivation == Activation::kRelu) {
    return v < 0.0F ? 0.0F : v;  // a comparison with NaN is false, so NaN passes
  } else if constexpr (kActivation == Activation::kSilu) {
    return silu<T>(v);
  } else if constexpr (kActivation == Activation::kHardSwish) {
    const float gate = v * (1.0F / 6.0F) + 0.5F;
    return v * (gate < 0.0F ? 0.0F : (gate > 1.0F ? 1.0F : gate));
  } else if constexpr (kActivation == Activation::kLeakyRelu) {
    return v < 0.0F ? alpha * v : v;
  } else {
    return v;
  }
}

}  // namespace gn::cuda
