// Tiles that fit a block or a cluster of blocks, channels last: one read, one write.
//
// grid: parts (= cluster size) blocks per tile, looping where the grid is smaller; block: columns * rows_at_once
// threads, rounded up to whole warps; shared memory: columns_shared, and for SharedTile the part itself; condition: the
// part fits the tile; parts > 1 needs sm_90 and a cluster launch; kVector > 1 needs rows and tiles that begin at
// multiples of 16 bytes.
#pragma once

#include "cluster_exchange.cuh"
#include "columns.cuh"

namespace gn::cuda {

template <typename Tile, int kMaxThreads, int kBlocksPerMultiprocessor>
__global__ void __launch_bounds__(kMaxThreads, kBlocksPerMultiprocessor)
    group_norm_columns_on_chip(const ColumnsParams p) {
  using T = typename Tile::Element;
  constexpr int kVector = Tile::kVector;
  const int active = p.rows_at_once * p.columns;
  const ColumnsShared layout = columns_shared(std::int64_t{active} * kVector, p.groups_per_tile, p.parts);
  unsigned char* shared = shared_memory();
  auto* sums = reinterpret_cast<float*>(shared + layout.sums);
  auto* results = reinterpret_cast<Moments*>(shared + layout.results);
  ClusterExchange exchange(shared + layout.exchange, p.parts, p.groups_per_tile);
  Tile tile(shared + layout.data, active);
  const ColumnsThread thread(p);
  const std::int64_t units = p.tiles * p.parts;
  for (std::int64_t i = blockIdx.x; i < units; i += gridDim.x) {
    const ColumnsUnit unit = columns_unit(p, i, kVector);
    const std::int64_t start = unit.offset + unit.row * p.channels;
    columns_moments(p, thread, unit, unit.end_row - unit.row, tile, static_cast<const T*>(p.x) + start, sums, results);
    if (p.parts > 1) {
      const Moments* received = exchange(unit.slot, [&](int group) { return results[group]; });
      for (int group = static_cast<int>(threadIdx.x); group < p.groups_per_tile;
           group += static_cast<int>(blockDim.x)) {
        results[group] = combine_in_order(received + group, p.parts, p.groups_per_tile);
      }
      block_barrier();
    }
    tile.store(static_cast<T*>(p.y) + start, ColumnsAffine<T, kVector>(p, thread, unit, results));
    block_barrier();  // the next tile's sums overwrite `results`
  }
}

}  // namespace gn::cuda
