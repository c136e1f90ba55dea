// The contract between kernels and everything that calls them: one GroupNorm problem as plain data.
//
// No runtime, no CUDA and no Python is known here. Kernels include this header and nothing above it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gn {

enum class DType : std::int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kFloat64 = 3 };

// Where the channels lie: x is [N, C, *spatial] or [N, *spatial, C].
enum class Layout : std::int32_t { kChannelsFirst = 0, kChannelsLast = 1 };

// y = activation(GroupNorm(x)).
enum class Activation : std::int32_t {
  kNone = 0,
  kRelu = 1,       // max(v, 0), NaN stays NaN
  kSilu = 2,       // v / (1 + exp(-v))
  kHardSwish = 3,  // v * max(0, min(1, v/6 + 1/2)), ONNX HardSwish
  kLeakyRelu = 4,  // v >= 0 ? v : alpha * v
};

// Sizes and attributes. All sizes may be 0 except num_groups >= 1; channels % num_groups == 0.
struct GroupNormProblem {
  std::int64_t batch = 0;     // N
  std::int64_t channels = 0;  // C
  std::int64_t spatial = 0;   // product of the spatial dimensions; 1 for rank 2
  std::int64_t num_groups = 1;
  double epsilon = 1e-5;
  DType dtype = DType::kFloat32;  // of x, scale, bias and y
  Layout layout = Layout::kChannelsFirst;
  Activation activation = Activation::kNone;
  float alpha = 0.0F;  // LeakyRelu's slope
};

// Device or host pointers, as the kernel called requires. y may be equal to x (in place).
struct GroupNormBuffers {
  const void* x = nullptr;      // [N, C, *spatial] or [N, *spatial, C]
  const void* scale = nullptr;  // [C], gamma
  const void* bias = nullptr;   // [C], beta
  void* y = nullptr;            // shape of x
  // CUDA only: scale, or bias, is one element for all channels.
  bool one_scale = false;
  bool one_bias = false;
};

}  // namespace gn
