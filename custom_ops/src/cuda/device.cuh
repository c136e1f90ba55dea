// The few device intrinsics that the kernels need, each behind a plain function, so that the same kernel sources can
// also be compiled for the host (GN_EMULATE). Kernels use nothing device specific that is not named here.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef GN_EMULATE
#include "emu/device_emulation.h"
#else
#include <cuda_runtime.h>

#define GN_DEVICE __device__ __forceinline__

namespace gn::cuda {

constexpr int kWarpSize = 32;

// 16 bytes: what one thread moves with one instruction. Not a vector of four values of a type.
struct alignas(16) Bits128 {
  std::uint32_t word[4];
};

// All shared memory is dynamic: a block has one region and its kernel lays it out.
GN_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char region[];
  return region;
}

GN_DEVICE void block_barrier() { __syncthreads(); }

GN_DEVICE float shuffle_xor(float value, int lane_mask) { return __shfl_xor_sync(0xffffffffU, value, lane_mask); }

GN_DEVICE std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) { return __umulhi(a, b); }

GN_DEVICE float exponential(float value) { return expf(value); }
GN_DEVICE float exponential_fast(float value) { return __expf(value); }
// At most 2 units in the last place off; 0 for a divisor above 2^126, where silu is 0 or a subnormal anyway.
GN_DEVICE float divide_fast(float a, float b) { return __fdividef(a, b); }

GN_DEVICE float float16_to_float(std::uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

GN_DEVICE std::uint16_t float_to_float16(float value) {
  std::uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

GN_DEVICE float bfloat16_to_float(std::uint16_t bits) {
  return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
}

GN_DEVICE std::uint16_t float_to_bfloat16(float value) {
#if __CUDA_ARCH__ >= 800
  std::uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  const std::uint32_t word = __float_as_uint(value);
  if (value != value) return 0x7fff;
  return static_cast<std::uint16_t>((word + 0x7fffU + ((word >> 16) & 1U)) >> 16);
#endif
}

}  // namespace gn::cuda
#endif
