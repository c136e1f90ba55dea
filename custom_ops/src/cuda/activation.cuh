// The activations that may follow the affine step, in float. NaN in, NaN out.
//
// Chosen at run time, once per vector: the branch is the same for all threads and costs nothing beside the memory
// accesses, and there are five times fewer kernels to build.
#pragma once

#include "gn/group_norm.h"
#include "pack.cuh"

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

GN_DEVICE float hard_swish(float v) {
  const float gate = v * (1.0F / 6.0F) + 0.5F;
  return v * (gate < 0.0F ? 0.0F : (gate > 1.0F ? 1.0F : gate));
}

template <typename T, int kVector>
GN_DEVICE void activate(Activation activation, float alpha, Floats<kVector>& floats) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kRelu:
#pragma unroll
      for (float& v : floats.value) v = v < 0.0F ? 0.0F : v;  // a comparison with NaN is false, so NaN passes
      return;
    case Activation::kSilu:
#pragma unroll
      for (float& v : floats.value) v = silu<T>(v);
      return;
    case Activation::kHardSwish:
#pragma unroll
      for (float& v : floats.value) v = hard_swish(v);
      return;
    case Activation::kLeakyRelu:
#pragma unroll
      for (float& v : floats.value) v = v < 0.0F ? alpha * v : v;
      return;
  }
}

}  // namespace gn::cuda
