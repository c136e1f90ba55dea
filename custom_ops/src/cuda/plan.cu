// Also compiled as plain C++ where there is no CUDA compiler: nothing of CUDA is used here.
#include <algorithm>

#include "plan.h"

namespace gn::cuda {
namespace {

constexpr std::int64_t kWarpLanes = 32;
constexpr std::int64_t kMaxWarpVectors = 8;       // 8 x 16 bytes x 32 lanes = 4 KB
constexpr std::int64_t kMinPartBytes = 8 * 1024;  // a block with less to read costs more to coordinate than it brings
constexpr std::int64_t kMaxParts = 1024;
constexpr std::int64_t kReservedBytes = 1024;  // of shared memory, for every block, by the driver
constexpr std::int64_t kPartialBytes = 16;
constexpr std::int64_t kRowBytes = 64;        // channels last: two sectors of memory, side by side, per row of a tile
constexpr std::int64_t kNarrowRowBytes = 32;  // one sector, where wider tiles would be too few to fill the device

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return divide_up(a, b) * b; }

std::int64_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kFloat64:
      return 8;
    case DType::kFloat32:
      break;
  }
  return 4;
}

// One sample: all that the order of accumulation may depend on. There is no batch size in it on purpose.
struct Sample {
  std::int64_t spatial;
  std::int64_t channels;
  std::int64_t num_groups;
  std::int64_t group_channels;
  std::int64_t element_bytes;
  bool aligned16;
};

// Smallest power of two, at least 1 and at most `most`, that is not less than `wanted`.
int power_of_two(std::int64_t wanted, int most) {
  int value = 1;
  while (value < most && value < wanted) value *= 2;
  return value;
}

// Blocks per tile that keep most multiprocessors busy with a single sample, none with too little to do.
int cluster_to_fill(std::int64_t tiles_per_sample, std::int64_t tile_bytes, const DeviceLimits& limits) {
  const int most = std::min(limits.max_cluster_blocks, kPortableCluster);  // more only where a tile needs the room
  int cluster = 1;
  while (cluster * 2 <= most && tiles_per_sample * cluster * 4 < limits.multiprocessors * std::int64_t{3} &&
         tile_bytes / (cluster * 2) >= kMinPartBytes) {
    cluster *= 2;
  }
  return cluster;
}

// Shared memory that a block may use if another one is to be on the same multiprocessor: one stores while one loads.
std::int64_t half_of_multiprocessor(const DeviceLimits& limits) {
  return (limits.shared_memory_per_block_optin + kReservedBytes) / 2 - kReservedBytes;
}

// Blocks that hold a tile together: so many that two are on a multiprocessor, else so many that one is.
int cluster_to_hold(std::int64_t tile_bytes, std::int64_t header_bytes, const DeviceLimits& limits) {
  const std::int64_t half = half_of_multiprocessor(limits) - header_bytes;
  const std::int64_t whole = limits.shared_memory_per_block_optin - header_bytes;
  const int comfortable =
      power_of_two(divide_up(tile_bytes, std::max<std::int64_t>(half, 1)), limits.max_cluster_blocks);
  if (half > 0 && comfortable * half >= tile_bytes) return comfortable;
  return power_of_two(divide_up(tile_bytes, std::max<std::int64_t>(whole, 1)), limits.max_cluster_blocks);
}

// Without clusters one block per tile leaves most of the chip idle when a sample has very few tiles.
bool too_few_blocks(std::int64_t tiles_per_sample, std::int64_t tile_bytes, const DeviceLimits& limits) {
  return limits.max_cluster_blocks == 1 && tiles_per_sample * 4 < limits.multiprocessors && tile_bytes > 64 * 1024;
}

// Threads for a block that holds `vectors`, and vectors per thread: more threads first, then more registers.
void choose_registers(std::int64_t vectors, LaunchPlan* plan) {
  plan->vectors_per_thread = 2;
  while (plan->vectors_per_thread < kBlockVectors && vectors > plan->vectors_per_thread * std::int64_t{256}) {
    plan->vectors_per_thread *= 2;
  }
  plan->threads = static_cast<int>(round_up(divide_up(vectors, plan->vectors_per_thread), kWarpLanes));
}

// Number and length of the parts when `length` is cut into whole steps of `step`, the same count of steps in each part.
// Every block of the second launch reads the moments of all parts of its `groups` groups: at most a quarter of the
// bytes that it normalises, `bytes` / parts.
void choose_parts(std::int64_t length, std::int64_t step, std::int64_t bytes, std::int64_t groups, LaunchPlan* plan) {
  std::int64_t most = 1;
  while (most < kMaxParts && 4 * kPartialBytes * groups * (2 * most) * (2 * most) <= bytes) most *= 2;
  const std::int64_t steps = divide_up(length, step);
  const std::int64_t steps_per_part = divide_up(steps, most);
  plan->step_length = static_cast<int>(step);
  plan->part_length = steps_per_part * step;
  plan->parts = static_cast<int>(divide_up(length, plan->part_length));
}

LaunchPlan plan_channels_first(const Sample& sample, const DeviceLimits& limits) {
  LaunchPlan plan;
  const std::int64_t n = sample.group_channels * sample.spatial;
  const std::int64_t wide = 16 / sample.element_bytes;
  // A vector may touch two channels but not three, hence spatial >= wide.
  const bool vectorised = sample.aligned16 && n % wide == 0 && sample.spatial >= wide;
  plan.vector_elements = static_cast<int>(vectorised ? wide : 1);
  const std::int64_t vectors = n / plan.vector_elements;
  const std::int64_t bytes = n * sample.element_bytes;

  if (vectors <= kWarpLanes * kMaxWarpVectors) {
    plan.regime = Regime::kWarp;
    plan.vectors_per_thread = power_of_two(divide_up(vectors, kWarpLanes), kMaxWarpVectors);
    if (!vectorised) plan.vectors_per_thread = plan.vectors_per_thread <= 2 ? 2 : 8;  // fewer kernels to build
    plan.threads = kWarpBlockThreads;
    plan.part_length = vectors;
    return plan;
  }

  // 16 bytes more than the data: an unaligned part keeps its misalignment in shared memory.
  const std::int64_t room = limits.shared_memory_per_block_optin - kHeaderBytes - 16;
  const int to_fill = cluster_to_fill(sample.num_groups, bytes, limits);
  const int to_hold = cluster_to_hold(bytes, kHeaderBytes + 32, limits);
  const int cluster = std::max(to_fill, to_hold);
  const std::int64_t part = divide_up(vectors, cluster);
  const std::int64_t part_bytes = part * plan.vector_elements * sample.element_bytes;
  if (part_bytes <= room && !too_few_blocks(sample.num_groups, bytes, limits)) {
    plan.parts = cluster;
    plan.part_length = part;
    if (vectorised && part <= kBlockThreads * kBlockVectors) {
      plan.regime = Regime::kRegisters;
      choose_registers(part, &plan);
      plan.shared_bytes = kHeaderBytes;
    } else {
      plan.regime = Regime::kShared;
      plan.shared_bytes = kHeaderBytes + round_up(part_bytes + 16, 16);
      plan.threads = plan.shared_bytes > half_of_multiprocessor(limits) ? kLargeBlockThreads : kBlockThreads;
    }
    return plan;
  }

  plan.regime = Regime::kSplit;
  plan.threads = kBlockThreads;
  plan.vectors_per_thread = kSplitVectors;
  // Unaligned data is staged in shared memory, half as much at once so that it fits every device.
  const std::int64_t step = vectorised ? kBlockThreads * kSplitVectors : 32 * 1024 / sample.element_bytes;
  choose_parts(vectors, step, bytes, 1, &plan);
  plan.shared_bytes = kHeaderBytes + (vectorised ? 0 : step * sample.element_bytes + 16);
  return plan;
}

// Groups side by side in a tile: the fewest that divide the number of groups, fill whole vectors and whole rows of
// `row_bytes`; if there are none, all groups.
std::int64_t groups_side_by_side(const Sample& sample, std::int64_t vector_elements, std::int64_t row_bytes) {
  const std::int64_t group_bytes = sample.group_channels * sample.element_bytes;
  for (std::int64_t groups = 1; groups <= sample.num_groups; ++groups) {
    const bool whole = sample.num_groups % groups == 0 && groups * sample.group_channels % vector_elements == 0;
    if (whole && groups * group_bytes >= row_bytes) return groups;
  }
  return sample.num_groups;
}

LaunchPlan plan_channels_last(const Sample& sample, const DeviceLimits& limits) {
  LaunchPlan plan;
  const std::int64_t wide = 16 / sample.element_bytes;
  std::int64_t vector = sample.aligned16 && sample.channels % wide == 0 ? wide : 1;
  std::int64_t groups = groups_side_by_side(sample, vector, kRowBytes);
  const std::int64_t narrow = groups_side_by_side(sample, vector, kNarrowRowBytes);
  const bool whole_sectors = narrow * sample.group_channels * sample.element_bytes % kNarrowRowBytes == 0;
  const std::int64_t most_blocks = sample.num_groups / groups * std::min(limits.max_cluster_blocks, kPortableCluster);
  if (vector > 1 && whole_sectors && most_blocks * 4 < limits.multiprocessors * std::int64_t{3}) groups = narrow;
  if (groups == 1 && sample.group_channels % vector != 0) vector = 1;
  std::int64_t width = groups * sample.group_channels;
  if (width / vector > kColumnsThreads) {
    // Wider than a block has threads: a part of one group. Its vectors must not reach into the next group.
    groups = 1;
    if (sample.group_channels % vector != 0) vector = 1;
    width = std::min(sample.group_channels, kColumnsThreads * vector);
  }
  plan.vector_elements = static_cast<int>(vector);
  plan.groups_per_tile = static_cast<int>(groups);
  plan.tiles_per_group = static_cast<int>(groups > 1 ? 1 : divide_up(sample.group_channels, width));
  plan.columns = static_cast<int>(width / vector);
  const std::int64_t tiles_per_sample = sample.num_groups / groups * plan.tiles_per_group;
  const std::int64_t row_bytes = width * sample.element_bytes;
  const std::int64_t bytes = row_bytes * sample.spatial;

  auto use_rows = [&](std::int64_t rows, int threads) {
    plan.rows_at_once = static_cast<int>(std::clamp<std::int64_t>(rows, 1, std::max(threads / plan.columns, 1)));
    plan.threads = static_cast<int>(round_up(std::int64_t{plan.rows_at_once} * plan.columns, kWarpLanes));
  };
  auto active = [&] { return std::int64_t{plan.rows_at_once} * width; };

  const std::int64_t largest_header =
      columns_shared(kLargeColumnsThreads * vector, groups, limits.max_cluster_blocks).data;
  const std::int64_t room = limits.shared_memory_per_block_optin - largest_header;
  const int to_fill = cluster_to_fill(tiles_per_sample, bytes, limits);
  const int to_hold = cluster_to_hold(bytes, largest_header + row_bytes, limits);
  const int cluster = std::max(to_fill, to_hold);
  const std::int64_t part = divide_up(sample.spatial, cluster);
  if (plan.tiles_per_group == 1 && part * row_bytes <= room && !too_few_blocks(tiles_per_sample, bytes, limits)) {
    plan.parts = cluster;
    plan.part_length = part;
    use_rows(part, kColumnsThreads);
    auto header = [&] { return columns_shared(active(), groups, cluster).data; };
    if (part <= plan.rows_at_once * kColumnsVectors) {
      plan.regime = Regime::kRegisters;
      plan.vectors_per_thread = kColumnsVectors;
      plan.shared_bytes = header();
    } else {
      plan.regime = Regime::kShared;
      const std::int64_t part_bytes = round_up(part * row_bytes, 16);
      if (header() + part_bytes > half_of_multiprocessor(limits)) use_rows(part, kLargeColumnsThreads);
      plan.shared_bytes = header() + part_bytes;
    }
    return plan;
  }

  plan.regime = Regime::kSplit;
  plan.vectors_per_thread = kColumnsVectors;
  use_rows(sample.spatial, kColumnsThreads);
  choose_parts(sample.spatial, std::int64_t{plan.rows_at_once} * kColumnsVectors, bytes, groups * plan.tiles_per_group,
               &plan);
  plan.shared_bytes = columns_shared(active(), groups, 1).data;
  return plan;
}

}  // namespace

LaunchPlan make_plan(const GroupNormProblem& problem, const DeviceLimits& limits, bool aligned16,
                     std::int64_t max_grid_blocks) {
  if (problem.batch == 0 || problem.channels == 0 || problem.spatial == 0) return {};
  const Sample sample{problem.spatial,
                      problem.channels,
                      problem.num_groups,
                      problem.channels / problem.num_groups,
                      element_bytes(problem.dtype),
                      aligned16};
  const bool channels_last = problem.layout == Layout::kChannelsLast;
  LaunchPlan plan = channels_last ? plan_channels_last(sample, limits) : plan_channels_first(sample, limits);

  // From here on the batch size only counts tiles.
  plan.tiles = problem.batch * (problem.num_groups / plan.groups_per_tile) * plan.tiles_per_group;
  const std::int64_t warps_per_block = plan.threads / kWarpLanes;
  const std::int64_t blocks =
      plan.regime == Regime::kWarp ? divide_up(plan.tiles, warps_per_block) : plan.tiles * plan.parts;
  const std::int64_t whole_tiles = std::max<std::int64_t>(max_grid_blocks / plan.parts, 1) * plan.parts;
  plan.grid_blocks = std::min(blocks, whole_tiles);
  if (plan.regime == Regime::kSplit) {
    plan.overlap_launches = limits.max_cluster_blocks > 1;  // one generation of devices brought both
    plan.workspace_bytes = plan.tiles * plan.groups_per_tile * plan.parts * kPartialBytes;
  }
  return plan;
}

}  // namespace gn::cuda
