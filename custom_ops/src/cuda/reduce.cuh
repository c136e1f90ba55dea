// Sums over a warp and over a block in one fixed order, so that the same values always give the same bits.
#pragma once

#include "device.cuh"

namespace gn::cuda {

struct Sums {
  float first;
  float second;
};

// Every lane gets the sum: a butterfly adds the same pairs in every lane.
GN_DEVICE float warp_sum(float value) {
#pragma unroll
  for (int lane_mask = kWarpSize / 2; lane_mask > 0; lane_mask /= 2) value += shuffle_xor(value, lane_mask);
  return value;
}

// One group per warp.
struct WarpReducer {
  GN_DEVICE float operator()(float value) { return warp_sum(value); }
  GN_DEVICE Sums operator()(Sums sums) { return {warp_sum(sums.first), warp_sum(sums.second)}; }
};

// One group per block of whole warps. `area` [2][2][32] floats of shared memory: consecutive calls alternate between
// two areas, so that the one barrier of the next call is what protects this call's reads.
class BlockReducer {
 public:
  GN_DEVICE explicit BlockReducer(void* shared) : area(static_cast<float*>(shared)) {}

  GN_DEVICE float operator()(float value) {
    float* partial = next_area();
    value = warp_sum(value);
    if (lane() == 0) partial[warp()] = value;
    block_barrier();
    return warp_sum(lane() < warps() ? partial[lane()] : 0.0F);
  }

  GN_DEVICE Sums operator()(Sums sums) {
    float* first = next_area();
    float* second = first + kWarpSize;
    sums = WarpReducer{}(sums);
    if (lane() == 0) {
      first[warp()] = sums.first;
      second[warp()] = sums.second;
    }
    block_barrier();
    return WarpReducer{}({lane() < warps() ? first[lane()] : 0.0F, lane() < warps() ? second[lane()] : 0.0F});
  }

 private:
  GN_DEVICE static int lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }
  GN_DEVICE static int warp() { return static_cast<int>(threadIdx.x) / kWarpSize; }
  GN_DEVICE static int warps() { return static_cast<int>(blockDim.x) / kWarpSize; }

  GN_DEVICE float* next_area() {
    float* next = area + turn * 2 * kWarpSize;
    turn ^= 1;
    return next;
  }

  float* area;
  int turn = 0;
};

}  // namespace gn::cuda
