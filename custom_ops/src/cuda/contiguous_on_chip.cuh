// Groups that fit a block or a cluster of blocks, channels first: one read, one write.
//
// Each block of a cluster holds one part of the group in registers or shared memory, finds the part's mean and variance
// in two passes over it, tells them to its peers and combines all parts in the order of the blocks.
//
// grid: parts (= cluster size) blocks per group, looping where the grid is smaller; block: whole warps;
// shared memory: kHeaderBytes, and for the tiles in shared memory the part itself (and 16 bytes for StagedTile);
// condition: the part fits the tile; parts > 1 needs sm_90 and a cluster launch; RegisterTile and SharedTile need
// groups and parts that begin at multiples of 16 bytes.
#pragma once

#include "cluster_exchange.cuh"
#include "contiguous.cuh"
#include "plan.h"
#include "staged_tile.cuh"

namespace gn::cuda {

template <typename Tile, int kMaxThreads, int kBlocksPerMultiprocessor>
__global__ void __launch_bounds__(kMaxThreads, blocks_at_once(kMaxThreads, kBlocksPerMultiprocessor))
    group_norm_on_chip(const ContiguousParams p) {
  using T = typename Tile::Element;
  unsigned char* shared = shared_memory();
  BlockReducer reduce(shared);
  ClusterExchange exchange(shared + kSumBytes, p.parts, 1);
  Tile tile(shared + kHeaderBytes, static_cast<int>(blockDim.x));
  const std::int64_t units = p.groups * p.parts;
  for (std::int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const std::int64_t group = unit / p.parts;
    const auto part = static_cast<int>(unit - group * p.parts);  // the block's rank in its cluster
    const auto run = contiguous_run<T>(p, group, part * p.part_elements, (part + 1) * p.part_elements);
    const Slice slice = run.template slice<Tile::kVector>(static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
    Moments moments = contiguous_moments(tile, run.x, slice, reduce);
    if (p.parts > 1) {
      moments = combine_in_order(exchange(part, [&](int) { return moments; }), p.parts, 1);
    }
    tile.store(run.y, ContiguousAffine<T>(p, group, run, moments));
  }
}

}  // namespace gn::cuda
