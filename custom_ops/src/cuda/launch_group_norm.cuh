// From a plan to the kernels of one element type. Included by one source file per type, so that they build in parallel.
#pragma once

#include <algorithm>

#include "columns_on_chip.cuh"
#include "columns_split.cuh"
#include "contiguous_on_chip.cuh"
#include "contiguous_split.cuh"
#include "contiguous_warp.cuh"
#include "launch.cuh"
#include "launch_group_norm.h"

namespace gn::cuda {

constexpr CudaError kInvalidPlan = 1;  // cudaErrorInvalidValue: a plan that no kernel was built for

// Not a factor: a multiplication in 64 bits made kernels spill.
inline std::int64_t channel_mask(bool one_for_all) { return one_for_all ? 0 : -1; }

inline ContiguousParams contiguous_params(const GroupNormProblem& problem, const GroupNormBuffers& buffers,
                                          const LaunchPlan& plan, void* workspace) {
  ContiguousParams p{};
  p.x = buffers.x;
  p.scale = buffers.scale;
  p.bias = buffers.bias;
  p.y = buffers.y;
  p.partials = static_cast<Moments*>(workspace);
  p.groups = plan.tiles;
  p.channels_per_group = problem.channels / problem.num_groups;
  p.group_elements = p.channels_per_group * problem.spatial;
  p.part_elements = plan.part_length * plan.vector_elements;
  p.spatial = problem.spatial;
  p.num_groups = problem.num_groups;
  p.by_spatial =
      make_fast_divisor(static_cast<std::uint32_t>(std::min<std::int64_t>(problem.spatial, std::int64_t{1} << 31)));
  p.parts = plan.parts;
  p.step_elements = plan.step_length * plan.vector_elements;
  p.scale_mask = channel_mask(buffers.one_scale);
  p.bias_mask = channel_mask(buffers.one_bias);
  p.epsilon = static_cast<float>(problem.epsilon);
  p.activation = problem.activation;
  p.alpha = problem.alpha;
  return p;
}

inline ColumnsParams columns_params(const GroupNormProblem& problem, const GroupNormBuffers& buffers,
                                    const LaunchPlan& plan, void* workspace) {
  ColumnsParams p{};
  p.x = buffers.x;
  p.scale = buffers.scale;
  p.bias = buffers.bias;
  p.y = buffers.y;
  p.partials = static_cast<Moments*>(workspace);
  p.tiles = plan.tiles;
  p.part_rows = plan.part_length;
  p.spatial = problem.spatial;
  p.channels = problem.channels;
  p.num_groups = problem.num_groups;
  p.channels_per_group = problem.channels / problem.num_groups;
  p.groups_per_tile = plan.groups_per_tile;
  p.tiles_per_group = plan.tiles_per_group;
  p.columns = plan.columns;
  p.rows_at_once = plan.rows_at_once;
  p.parts = plan.parts;
  p.step_rows = plan.step_length;
  p.scale_mask = channel_mask(buffers.one_scale);
  p.bias_mask = channel_mask(buffers.one_bias);
  p.epsilon = static_cast<float>(problem.epsilon);
  p.activation = problem.activation;
  p.alpha = problem.alpha;
  return p;
}

template <typename T>
CudaError launch_contiguous(const LaunchPlan& plan, const ContiguousParams& params, void* stream) {
  constexpr int kVector = kWide<T>;
  const bool wide = plan.vector_elements > 1;
  LaunchShape shape{plan.grid_blocks, plan.threads, 1, plan.shared_bytes};
  switch (plan.regime) {
    case Regime::kNothing:
      return 0;
    case Regime::kWarp:
      if (!wide && plan.vectors_per_thread == 2)
        return launch<group_norm_warp_per_group<T, 1, 2>>(params, shape, stream);
      if (!wide && plan.vectors_per_thread == 8)
        return launch<group_norm_warp_per_group<T, 1, 8>>(params, shape, stream);
      if (plan.vectors_per_thread == 1) return launch<group_norm_warp_per_group<T, kVector, 1>>(params, shape, stream);
      if (plan.vectors_per_thread == 2) return launch<group_norm_warp_per_group<T, kVector, 2>>(params, shape, stream);
      if (plan.vectors_per_thread == 4) return launch<group_norm_warp_per_group<T, kVector, 4>>(params, shape, stream);
      if (plan.vectors_per_thread == 8) return launch<group_norm_warp_per_group<T, kVector, 8>>(params, shape, stream);
      return kInvalidPlan;
    case Regime::kRegisters:
      shape.cluster = plan.parts;
      if (plan.vectors_per_thread == 2) {
        return launch<group_norm_on_chip<RegisterTile<T, kVector, 2>, kBlockThreads, 2>>(params, shape, stream);
      }
      if (plan.vectors_per_thread == 4) {
        return launch<group_norm_on_chip<RegisterTile<T, kVector, 4>, kBlockThreads, 2>>(params, shape, stream);
      }
      return kInvalidPlan;
    case Regime::kShared:
      shape.cluster = plan.parts;
      if (!wide) return launch<group_norm_on_chip<StagedTile<T>, kLargeBlockThreads, 1>>(params, shape, stream);
      if (plan.threads <= kBlockThreads) {
        return launch<group_norm_on_chip<SharedTile<T, kVector>, kBlockThreads, 3>>(params, shape, stream);
      }
      return launch<group_norm_on_chip<SharedTile<T, kVector>, kLargeBlockThreads, 1>>(params, shape, stream);
    case Regime::kSplit: {
      using Tile = RegisterTile<T, kVector, kSplitVectors, Reuse::kAgain>;
      const CudaError error = wide ? launch<group_norm_split_moments<Tile>>(params, shape, stream)
                                   : launch<group_norm_split_moments<StagedTile<T>>>(params, shape, stream);
      if (error != 0) return error;
      shape.shared_bytes = kHeaderBytes;
      shape.overlaps_previous = plan.overlap_launches;
      return launch<group_norm_split_apply<T, kSplitVectors>>(params, shape, stream);
    }
  }
  return kInvalidPlan;
}

template <typename T, int kVector>
CudaError launch_columns(const LaunchPlan& plan, const ColumnsParams& params, void* stream) {
  LaunchShape shape{plan.grid_blocks, plan.threads, 1, plan.shared_bytes};
  switch (plan.regime) {
    case Regime::kNothing:
      return 0;
    case Regime::kRegisters:
      shape.cluster = plan.parts;
      return launch<group_norm_columns_on_chip<RegisterTile<T, kVector, kColumnsVectors>, kColumnsThreads, 2>>(
          params, shape, stream);
    case Regime::kShared:
      shape.cluster = plan.parts;
      if (plan.threads <= kColumnsThreads) {
        return launch<group_norm_columns_on_chip<SharedTile<T, kVector>, kColumnsThreads, 2>>(params, shape, stream);
      }
      return launch<group_norm_columns_on_chip<SharedTile<T, kVector>, kLargeColumnsThreads, 1>>(params, shape, stream);
    case Regime::kSplit: {
      const CudaError error =
          launch<group_norm_columns_split_moments<T, kVector, kColumnsVectors>>(params, shape, stream);
      if (error != 0) return error;
      shape.overlaps_previous = plan.overlap_launches;
      return launch<group_norm_columns_split_apply<T, kVector, kColumnsVectors>>(params, shape, stream);
    }
    case Regime::kWarp:
      break;
  }
  return kInvalidPlan;
}

template <typename T>
CudaError launch_group_norm(const GroupNormProblem& problem, const GroupNormBuffers& buffers, const LaunchPlan& plan,
                            void* workspace, void* stream) {
  if (problem.layout == Layout::kChannelsFirst) {
    return launch_contiguous<T>(plan, contiguous_params(problem, buffers, plan, workspace), stream);
  }
  const ColumnsParams params = columns_params(problem, buffers, plan, workspace);
  return plan.vector_elements > 1 ? launch_columns<T, kWide<T>>(plan, params, stream)
                                  : launch_columns<T, 1>(plan, params, stream);
}

}  // namespace gn::cuda
