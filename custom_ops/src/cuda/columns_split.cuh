// Tiles too large for a chip's shared memory, channels last: a fixed number of blocks per tile and two launches, as for
// channels first. A group of more channels than a block has threads is spread over several tiles as well.
#pragma once

#include "columns.cuh"

namespace gn::cuda {

// grid: parts blocks per tile, looping where the grid is smaller; block: columns * rows_at_once threads, rounded up to
// whole warps; shared memory: columns_shared; condition: step_rows <= rows_at_once * kVectors; kVector > 1 needs rows
// and tiles that begin at multiples of 16 bytes.
template <typename T, int kVector, int kVectors>
__global__ void __launch_bounds__(kColumnsThreads, 2) group_norm_columns_split_moments(const ColumnsParams p) {
  launch_dependents();
  const ColumnsShared layout = columns_shared(std::int64_t{p.rows_at_once} * p.columns * kVector, p.groups_per_tile, 1);
  unsigned char* shared = shared_memory();
  auto* sums = reinterpret_cast<float*>(shared + layout.sums);
  auto* results = reinterpret_cast<Moments*>(shared + layout.results);
  RegisterTile<T, kVector, kVectors, Reuse::kAgain> tile(nullptr, 0);
  const ColumnsThread thread(p);
  const std::int64_t units = p.tiles * p.parts;
  const int slots = p.tiles_per_group * p.parts;
  for (std::int64_t i = blockIdx.x; i < units; i += gridDim.x) {
    const ColumnsUnit unit = columns_unit(p, i, kVector);
    for (std::int64_t row = unit.row; row < unit.end_row; row += p.step_rows) {
      const std::int64_t left = unit.end_row - row;
      columns_moments(p, thread, unit, left < p.step_rows ? left : p.step_rows, tile,
                      static_cast<const T*>(p.x) + unit.offset + row * p.channels, sums, results);
      for (int group = static_cast<int>(threadIdx.x); group < p.groups_per_tile;
           group += static_cast<int>(blockDim.x)) {
        Moments* partial = p.partials + (unit.group + group) * slots + unit.slot;
        *partial = row == unit.row ? results[group] : combine(*partial, results[group]);
      }
      block_barrier();  // the next step overwrites `results`
    }
  }
}

// grid, block, shared memory and condition: as above.
template <typename T, int kVector, int kVectors>
__global__ void __launch_bounds__(kColumnsThreads, 2) group_norm_columns_split_apply(const ColumnsParams p) {
  const ColumnsShared layout = columns_shared(std::int64_t{p.rows_at_once} * p.columns * kVector, p.groups_per_tile, 1);
  unsigned char* shared = shared_memory();
  auto* results = reinterpret_cast<Moments*>(shared + layout.results);
  const ColumnsThread thread(p);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const std::int64_t units = p.tiles * p.parts;
  const int slots = p.tiles_per_group * p.parts;
  for (std::int64_t i = blockIdx.x; i < units; i += gridDim.x) {
    const ColumnsUnit unit = columns_unit(p, units - 1 - i, kVector);
    bool combined = false;
    for (std::int64_t row = unit.row; row < unit.end_row; row += p.step_rows) {
      const std::int64_t left = unit.end_row - row;
      const std::int64_t start = unit.offset + row * p.channels;
      RegisterTile<T, kVector, kVectors> tile(nullptr, 0);
      tile.load(static_cast<const T*>(p.x) + start,
                thread.slice<kVector>(p, unit.width, left < p.step_rows ? left : p.step_rows), Ignore{});
      if (!combined) {  // after the loads: they need not wait for the first launch
        wait_for_previous_launch();
        for (int group = static_cast<int>(threadIdx.x) / kWarpSize; group < p.groups_per_tile; group += warps) {
          const Moments moments =
              combine_by(p.partials + (unit.group + group) * slots, slots, lane, kWarpSize, WarpReducer{});
          if (lane == 0) results[group] = moments;
        }
        block_barrier();
        combined = true;
      }
      tile.store(static_cast<T*>(p.y) + start, ColumnsAffine<T, kVector>(p, thread, unit, results));
    }
    block_barrier();  // the next tile's combination overwrites `results`
  }
}

}  // namespace gn::cuda
