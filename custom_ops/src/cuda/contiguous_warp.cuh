// Small groups, channels first: one warp per group, the group in registers.
//
// grid: one warp per group, looping where the grid is smaller; block: any number of whole warps; shared memory: none.
// condition: n <= 32 * kVectors * kVector elements; kVector > 1 needs groups that begin at multiples of 16 bytes.
#pragma once

#include "contiguous.cuh"
#include "plan.h"

namespace gn::cuda {

template <typename T, int kVector, int kVectors>
__global__ void __launch_bounds__(kWarpBlockThreads) group_norm_warp_per_group(const ContiguousParams p) {
  const std::int64_t warps_per_block = blockDim.x / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  std::int64_t group = blockIdx.x * warps_per_block + threadIdx.x / kWarpSize;
  WarpReducer reduce;
  for (; group < p.groups; group += gridDim.x * warps_per_block) {
    const auto run = contiguous_run<T>(p, group, 0, p.group_elements);
    RegisterTile<T, kVector, kVectors> tile(nullptr, 0);
    const Moments moments = contiguous_moments(tile, run.x, run.template slice<kVector>(lane, kWarpSize), reduce);
    tile.store(run.y, ContiguousAffine<T>(p, group, run, moments));
  }
}

}  // namespace gn::cuda
