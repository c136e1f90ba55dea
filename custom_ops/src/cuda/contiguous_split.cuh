// Groups too large for a chip's shared memory, channels first: a fixed number of blocks per group and two launches.
//
// The first launch writes the moments of every part, found in two passes over data that is on chip. The second reads x
// again, from the last part to the first, so that the L2 cache serves what the first launch read last; every block
// combines the parts of its group by itself, in one order, which costs less than a third launch.
#pragma once

#include "contiguous.cuh"
#include "plan.h"
#include "staged_tile.cuh"

namespace gn::cuda {

// grid: parts blocks per group, looping where the grid is smaller; block: whole warps; shared memory: kHeaderBytes, and
// for StagedTile one step and 16 bytes; condition: a step fits the tile, RegisterTile needs 16-byte alignment.
template <typename Tile>
__global__ void __launch_bounds__(kBlockThreads, 2) group_norm_split_moments(const ContiguousParams p) {
  using T = typename Tile::Element;
  launch_dependents();
  unsigned char* shared = shared_memory();
  BlockReducer reduce(shared);
  Tile tile(shared + kHeaderBytes, static_cast<int>(blockDim.x));
  const std::int64_t units = p.groups * p.parts;
  for (std::int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const std::int64_t group = unit / p.parts;
    const std::int64_t start = (unit - group * p.parts) * p.part_elements;
    std::int64_t end = start + p.part_elements;
    if (end > p.group_elements) end = p.group_elements;
    Moments moments{};
    for (std::int64_t step = start; step < end; step += p.step_elements) {
      const std::int64_t step_end = step + p.step_elements;
      const auto run = contiguous_run<T>(p, group, step, step_end < end ? step_end : end);
      const Slice slice =
          run.template slice<Tile::kVector>(static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
      const Moments of_step = contiguous_moments(tile, run.x, slice, reduce);
      moments = step == start ? of_step : combine(moments, of_step);
    }
    if (threadIdx.x == 0) p.partials[unit] = moments;
  }
}

// grid, block: as above, not necessarily the same; shared memory: kHeaderBytes; any alignment.
template <typename T, int kVectors>
__global__ void __launch_bounds__(kBlockThreads, 2) group_norm_split_apply(const ContiguousParams p) {
  BlockReducer reduce(shared_memory());
  const auto thread = static_cast<int>(threadIdx.x);
  const auto threads = static_cast<int>(blockDim.x);
  const std::int64_t units = p.groups * p.parts;
  for (std::int64_t i = blockIdx.x; i < units; i += gridDim.x) {
    const std::int64_t unit = units - 1 - i;
    const std::int64_t group = unit / p.parts;
    const std::int64_t start = (unit - group * p.parts) * p.part_elements;
    std::int64_t end = start + p.part_elements;
    if (end > p.group_elements) end = p.group_elements;
    bool combined = false;
    Moments moments{};
    for (std::int64_t step = start; step < end; step += p.step_elements) {
      const std::int64_t step_end = step + p.step_elements;
      const auto run = contiguous_run<T>(p, group, step, step_end < end ? step_end : end);
      // Vectors where x and y are misaligned alike (they begin so, or the group is odd), single elements elsewhere.
      const bool alike = (reinterpret_cast<std::uintptr_t>(run.x) - reinterpret_cast<std::uintptr_t>(run.y)) % 16 == 0;
      const bool wide = alike && p.spatial >= kWide<T>;
      const int head = wide ? elements_to_alignment(run.x, run.elements) : run.elements;
      const int vectors = (run.elements - head) / kWide<T>;
      const int tail = head + vectors * kWide<T>;
      const ContiguousRun<T> body{run.x + head, run.y + head, run.start + head, vectors * kWide<T>};
      RegisterTile<T, kWide<T>, kVectors> tile(nullptr, 0);
      tile.load(body.x, body.template slice<kWide<T>>(thread, threads), Ignore{});
      if (!combined) {  // after the loads: they need not wait for the first launch
        wait_for_previous_launch();
        moments = combine_by(p.partials + group * p.parts, p.parts, thread, threads, reduce);
        combined = true;
      }
      const ContiguousAffine<T> affine(p, group, run, moments);
      auto one = [&](int index) {
        Floats<1> value{{to_float(run.x[index])}};
        affine(index, value);
        run.y[index] = from_float<T>(value.value[0]);
      };
      for (int index = thread; index < head; index += threads) one(index);
      tile.store(body.y, [&](std::int64_t offset, auto& floats) { affine(head + offset, floats); });
      for (int index = tail + thread; index < run.elements; index += threads) one(index);
    }
  }
}

}  // namespace gn::cuda
