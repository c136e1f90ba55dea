// The few device intrinsics that the kernels need, each behind a plain function, so that the same kernel sources can
// also be compiled for the host (GN_EMULATE). Kernels use nothing device specific that is not named here, in
// device_nvcc.cuh or in its twin emu/device_host.h, but threadIdx, blockIdx, blockDim, gridDim and __global__.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef GN_EMULATE
#define GN_DEVICE inline
#else
#include <cuda_runtime.h>
#define GN_DEVICE __device__ __forceinline__
#endif

namespace gn::cuda {

constexpr int kWarpSize = 32;

// 16 bytes: what one thread moves with one instruction.
struct alignas(16) Bits128 {
  std::uint32_t word[4];
};

template <typename To, typename From>
GN_DEVICE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  return __builtin_bit_cast(To, from);
}

}  // namespace gn::cuda

#ifdef GN_EMULATE
#include "emu/device_host.h"
#else
#include "device_nvcc.cuh"
#endif
