// What the channels-last kernels share: a tile is `columns` vectors of channels, side by side, at every position of one
// sample. Every thread keeps to one column, so its channels' scale and bias are read once; the sums of its channels
// meet those of the other threads in shared memory, group by group.
#pragma once

#include "activation.cuh"
#include "moments.cuh"
#include "plan.h"
#include "tile.cuh"

namespace gn::cuda {

struct ColumnsParams {
  const void* x;  // [N, spatial, C]
  const void* scale;
  const void* bias;
  void* y;
  Moments* partials;       // [N, G][tiles_per_group * parts], split only
  std::int64_t tiles;      // in the whole tensor
  std::int64_t part_rows;  // of every part but the last
  std::int64_t spatial;
  std::int64_t channels;
  std::int64_t num_groups;
  std::int64_t channels_per_group;
  int groups_per_tile;
  int tiles_per_group;
  int columns;
  int rows_at_once;
  int parts;
  int step_rows;            // split: rows held at once
  std::int64_t scale_mask;  // of a channel's index: all bits, or none where one scale serves all channels
  std::int64_t bias_mask;
  float epsilon;
  Activation activation;
  float alpha;
};

// Which sample, channels and rows a block works on.
struct ColumnsUnit {
  std::int64_t group;    // of the whole tensor: the tile's first
  std::int64_t channel;  // the tile's first
  std::int64_t offset;   // of the tile's first element in x
  int width;             // channels
  int group_width;       // channels of each group that lie in the tile
  int slot;              // index of this unit's moments among those of its group
  std::int64_t row;
  std::int64_t end_row;
};

GN_DEVICE ColumnsUnit columns_unit(const ColumnsParams& p, std::int64_t unit, int vector) {
  const std::int64_t tile = unit / p.parts;
  const auto part = static_cast<int>(unit - tile * p.parts);
  const std::int64_t tiles_per_sample = p.num_groups / p.groups_per_tile * p.tiles_per_group;
  const std::int64_t sample = tile / tiles_per_sample;
  const std::int64_t in_sample = tile - sample * tiles_per_sample;
  const std::int64_t first_group = in_sample / p.tiles_per_group * p.groups_per_tile;
  const auto group_part = static_cast<int>(in_sample % p.tiles_per_group);
  const int full_width = p.columns * vector;
  ColumnsUnit u;
  u.group = sample * p.num_groups + first_group;
  const std::int64_t in_group = std::int64_t{group_part} * full_width;
  u.channel = first_group * p.channels_per_group + in_group;
  u.offset = sample * p.spatial * p.channels + u.channel;
  const std::int64_t left = p.channels_per_group - in_group;
  u.width = p.tiles_per_group > 1 && left < full_width ? static_cast<int>(left) : full_width;
  u.group_width = p.tiles_per_group > 1 ? u.width : static_cast<int>(p.channels_per_group);
  u.slot = group_part * p.parts + part;
  u.row = part * p.part_rows;
  u.end_row = u.row + p.part_rows < p.spatial ? u.row + p.part_rows : p.spatial;
  if (u.end_row < u.row) u.end_row = u.row;
  return u;
}

// The thread's place: `active` is false for the threads that fill up the last warp.
struct ColumnsThread {
  int row;
  int column;
  bool active;

  GN_DEVICE explicit ColumnsThread(const ColumnsParams& p)
      : row(static_cast<int>(threadIdx.x) / p.columns),
        column(static_cast<int>(threadIdx.x) % p.columns),
        active(row < p.rows_at_once) {}

  template <int kVector>
  GN_DEVICE Slice slice(const ColumnsParams& p, int width, std::int64_t rows) const {
    const bool used = active && column * kVector < width && rows > row;
    const int count = used ? static_cast<int>((rows - row - 1) / p.rows_at_once) + 1 : 0;
    return {row * p.channels + column * kVector, p.rows_at_once * p.channels, count, 0};
  }
};

// Calls visit(e, group) for each of the thread's channels e; `group` is the channel's group in the tile.
template <int kVector, typename Visit>
GN_DEVICE void for_each_channel(const ColumnsThread& thread, const ColumnsUnit& unit, Visit visit) {
  const int first = thread.column * kVector < unit.width ? thread.column * kVector : 0;
  int group = first / unit.group_width;
  int position = first - group * unit.group_width;
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    visit(e, group);
    if (++position == unit.group_width) {
      position = 0;
      ++group;
    }
  }
}

// Sums over the rows and channels of every group of the tile, kSums of them at once. `values` are this thread's, one
// per channel; `area` [kSums][rows_at_once][columns * vector] is written by all and may be used again after the next
// block barrier. Calls result(group, sums) in lane 0 of one warp for each group.
template <int kSums, int kVector, typename Result>
GN_DEVICE void sum_groups(const ColumnsParams& p, const ColumnsThread& thread, const ColumnsUnit& unit, float* area,
                          const Floats<kVector> (&values)[kSums], Result result) {
  const int row_width = p.columns * kVector;
  const int area_size = p.rows_at_once * row_width;
  if (thread.active) {
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      float* mine = area + s * area_size + thread.row * row_width + thread.column * kVector;
#pragma unroll
      for (int e = 0; e < kVector; ++e) mine[e] = values[s].value[e];
    }
  }
  block_barrier();
  // The lanes walk over the group's channels, row after row, without a division per step.
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int rows_per_step = kWarpSize / unit.group_width;
  const int channels_per_step = kWarpSize - rows_per_step * unit.group_width;
  for (int group = static_cast<int>(threadIdx.x) / kWarpSize; group < p.groups_per_tile; group += warps) {
    float sums[kSums] = {};
    int row = lane / unit.group_width;
    int channel = lane - row * unit.group_width;
    while (row < p.rows_at_once) {
      const float* element = area + row * row_width + group * unit.group_width + channel;
#pragma unroll
      for (int s = 0; s < kSums; ++s) sums[s] += element[s * area_size];
      row += rows_per_step;
      channel += channels_per_step;
      if (channel >= unit.group_width) {
        channel -= unit.group_width;
        ++row;
      }
    }
#pragma unroll
    for (float& sum : sums) sum = warp_sum(sum);
    if (lane == 0) result(group, sums);
  }
}

// Mean and variance of each group of what the tile holds, into `results` [groups_per_tile]; ends with a block barrier.
// `area` [2][rows_at_once][columns * vector].
template <typename Tile>
GN_DEVICE void columns_moments(const ColumnsParams& p, const ColumnsThread& thread, const ColumnsUnit& unit,
                               std::int64_t rows, Tile& tile, const typename Tile::Element* x, float* area,
                               Moments* results) {
  constexpr int kVector = Tile::kVector;
  const float count = static_cast<float>(rows) * static_cast<float>(unit.group_width);

  Floats<kVector> sum[1] = {};
  tile.load(x, thread.slice<kVector>(p, unit.width, rows), [&](const Floats<kVector>& floats) {
#pragma unroll
    for (int e = 0; e < kVector; ++e) sum[0].value[e] += floats.value[e];
  });
  sum_groups(p, thread, unit, area, sum,
             [&](int group, const float (&total)[1]) { results[group].pivot = rows == 0 ? 0.0F : total[0] / count; });
  block_barrier();

  Floats<kVector> pivot;
  for_each_channel<kVector>(thread, unit, [&](int e, int group) { pivot.value[e] = results[group].pivot; });
  Floats<kVector> about[2] = {};
  tile.visit([&](const Floats<kVector>& floats) {
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const float d = floats.value[e] - pivot.value[e];
      about[0].value[e] += d;
      about[1].value[e] += d * d;
    }
  });
  sum_groups(p, thread, unit, area, about, [&](int group, const float (&total)[2]) {
    results[group] = moments_about(results[group].pivot, total[0], total[1], count);
  });
  block_barrier();
}

// y = activation((x - mean) * rstd * scale + bias) for the thread's channels.
template <typename T, int kVector>
class ColumnsAffine {
 public:
  // moments: [groups_per_tile], shared.
  GN_DEVICE ColumnsAffine(const ColumnsParams& p, const ColumnsThread& thread, const ColumnsUnit& unit,
                          const Moments* moments)
      : activation(p.activation), alpha(p.alpha) {
    int last_group = thread.column * kVector < unit.width ? thread.column * kVector / unit.group_width : 0;
    Normaliser normaliser(moments[last_group], p.epsilon);
    for_each_channel<kVector>(thread, unit, [&](int e, int group) {
      if (group != last_group) normaliser = Normaliser(moments[group], p.epsilon);
      last_group = group;
      const int channel = thread.column * kVector + e;
      const bool used = thread.active && channel < unit.width;
      const float scale =
          used ? to_float(static_cast<const T*>(p.scale)[(unit.channel + channel) & p.scale_mask]) : 0.0F;
      const float bias = used ? to_float(static_cast<const T*>(p.bias)[(unit.channel + channel) & p.bias_mask]) : 0.0F;
      centre.value[e] = normaliser.centre;
      factor.value[e] = scale * normaliser.rstd;
      constant.value[e] = normaliser.constant(factor.value[e], bias);
    });
  }

  GN_DEVICE void operator()(std::int64_t /*offset*/, Floats<kVector>& floats) const {
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      floats.value[e] = fmaf(floats.value[e] - centre.value[e], factor.value[e], constant.value[e]);
    }
    activate<T>(activation, alpha, floats);
  }

 private:
  Floats<kVector> centre;
  Floats<kVector> factor;
  Floats<kVector> constant;
  Activation activation;
  float alpha;
};

}  // namespace gn::cuda
