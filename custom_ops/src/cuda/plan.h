// The launch plan: problem, device limits and pointer alignment -> kernel, grid, block, vector width, cluster, splits.
//
// Pure host code, tested without a GPU. Everything that decides in which order a group is summed (vector width,
// threads, cluster, parts) is chosen from one sample's shape, the type and the device by functions that are not given
// the batch size; the batch size only multiplies the number of tiles. So a sample's result has the same bits in every
// batch.
#pragma once

#include <cstdint>

#include "gn/group_norm_cuda.h"

namespace gn::cuda {

// How a tile is held, from the smallest tile to the largest.
enum class Regime : int {
  kNothing = 0,    // no element: no launch
  kWarp = 1,       // a warp per group, values in registers
  kRegisters = 2,  // a block or a cluster of blocks per tile, values in registers
  kShared = 3,     // a block or a cluster of blocks per tile, values in shared memory
  kSplit = 4,      // a fixed number of blocks per tile and two launches; x is read twice
};

// A tile is what is normalised together. Channels first: one group. Channels last: every position of a run of channels
// that holds whole groups, or, for a group too wide for a block's threads, of a part of one group.
struct LaunchPlan {
  Regime regime = Regime::kNothing;
  int vector_elements = 1;       // elements per access: 16 bytes' worth, or 1
  int vectors_per_thread = 0;    // held in registers
  int threads = 0;               // a block
  std::int64_t tiles = 0;        // in the whole tensor
  int parts = 1;                 // blocks per tile: the cluster's size, or the number of splits
  std::int64_t part_length = 0;  // vectors (channels first) or rows (channels last) of a part; the last may have fewer
  int step_length = 0;           // split: vectors or rows that a block holds at once
  // Channels last only.
  int columns = 0;          // vectors side by side in a tile's row, one per thread
  int rows_at_once = 0;     // threads / columns, rounded down
  int groups_per_tile = 1;  // more than 1: the tile holds whole groups
  int tiles_per_group = 1;  // more than 1: the tile is a part of one group
  // What the launch asks for.
  std::int64_t shared_bytes = 0;
  std::int64_t workspace_bytes = 0;
  bool overlap_launches = false;  // the second launch may start before the first has ended
  std::int64_t grid_blocks = 0;   // kernels loop where there are more blocks of work than this
};

constexpr int kWarpBlockThreads = 128;     // a block of warps, each with its own group
constexpr int kBlockThreads = 512;         // most threads of a channels-first block
constexpr int kLargeBlockThreads = 1024;   // where shared memory lets only one block on a multiprocessor
constexpr int kColumnsThreads = 256;       // most threads of a channels-last block, each with about 100 registers
constexpr int kLargeColumnsThreads = 512;  // where shared memory lets only one block on a multiprocessor

// How many 16-byte vectors a thread holds in registers; each is one set of kernels.
constexpr int kBlockVectors = 4;
constexpr int kSplitVectors = 8;
constexpr int kColumnsVectors = 4;

// Bytes of shared memory in front of the data of a channels-first tile: two areas for block sums, then the cluster's
// exchange, one slot per block, twice.
constexpr int kPortableCluster = 8;
constexpr int kMaxCluster = 16;
constexpr int kSumBytes = 2 * 2 * 32 * 4;
constexpr int kExchangeBytes = 2 * kMaxCluster * 16;
constexpr int kHeaderBytes = kSumBytes + kExchangeBytes;

// Where the areas of a channels-last block begin; `kernel` and plan agree through this one function.
struct ColumnsShared {
  std::int64_t sums;      // [2][rows_at_once * columns * vector] float
  std::int64_t results;   // [groups_per_tile] moments
  std::int64_t exchange;  // [2][parts][groups_per_tile] moments, clusters only
  std::int64_t data;
};
#if defined(__CUDACC__)
__host__ __device__
#endif
    constexpr ColumnsShared columns_shared(std::int64_t active_elements, std::int64_t groups_per_tile,
                                           std::int64_t cluster) {
  const std::int64_t results = (2 * active_elements * 4 + 15) / 16 * 16;
  const std::int64_t exchange = results + groups_per_tile * 16;
  return {0, results, exchange, exchange + (cluster > 1 ? 2 * cluster * groups_per_tile * 16 : 0)};
}

constexpr std::int64_t kMaxGridBlocks = 2147483647;

// `aligned16`: x and y both begin at a multiple of 16 bytes. `max_grid_blocks` is smaller in tests only.
LaunchPlan make_plan(const GroupNormProblem& problem, const DeviceLimits& limits, bool aligned16,
                     std::int64_t max_grid_blocks = kMaxGridBlocks);

}  // namespace gn::cuda
