// Sums over a warp and over a block in one fixed order, so that the same values always give the same bits.
#pragma once

#include "device.cuh"

namespace gn::cuda {

constexpr int kMaxWarps = 32;

// Every lane gets the sum: a butterfly adds the same pairs in every lane.
GN_DEVICE float warp_sum(float value) {
#pragma unroll
  for (int lane_mask = kWarpSize / 2; lane_mask > 0; lane_mask /= 2) value += shuffle_xor(value, lane_mask);
  return value;
}

// Every thread gets the sum. `scratch` [kMaxWarps] is shared and may be used again right after the return.
GN_DEVICE float block_sum(float value, float* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  value = warp_sum(value);
  if (lane == 0) scratch[warp] = value;
  block_barrier();
  value = warp_sum(lane < warps ? scratch[lane] : 0.0F);
  block_barrier();
  return value;
}

}  // namespace gn::cuda
