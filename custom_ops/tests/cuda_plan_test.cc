// The launch plan without a GPU: what holds for every shape, and what is chosen for known ones.
#include <algorithm>
#include <cstdio>
#include <random>
#include <string>

#include "cuda_cases.h"
#include "plan.h"

namespace gn::testing {
namespace {

using cuda::LaunchPlan;
using cuda::Regime;

int failures = 0;

void expect(bool condition, const GroupNormProblem& problem, const char* what) {
  if (condition) return;
  std::printf("FAIL %s: %s\n", describe(problem).c_str(), what);
  ++failures;
}

constexpr DeviceLimits kTuring{75, 40, 65536, 4 << 20, 1};
constexpr DeviceLimits kAmpere{80, 108, 166912, 40 << 20, 1};
constexpr DeviceLimits kHopper{90, 132, 232448, 50 << 20, 16};
constexpr DeviceLimits kPortableHopper{90, 132, 232448, 50 << 20, 8};
constexpr DeviceLimits kBlackwellDesktop{120, 170, 101376, 96 << 20, 8};

// Everything but the number of tiles and what follows from it.
bool same_order(LaunchPlan a, LaunchPlan b) {
  a.tiles = b.tiles = a.grid_blocks = b.grid_blocks = a.workspace_bytes = b.workspace_bytes = 0;
  return a.regime == b.regime && a.vector_elements == b.vector_elements &&
         a.vectors_per_thread == b.vectors_per_thread && a.threads == b.threads && a.parts == b.parts &&
         a.part_length == b.part_length && a.step_length == b.step_length && a.columns == b.columns &&
         a.rows_at_once == b.rows_at_once && a.groups_per_tile == b.groups_per_tile &&
         a.tiles_per_group == b.tiles_per_group && a.shared_bytes == b.shared_bytes;
}

void check_channels_first(const GroupNormProblem& p, const LaunchPlan& plan) {
  const std::int64_t n = p.channels / p.num_groups * p.spatial;
  const std::int64_t vectors = n / plan.vector_elements;
  expect(n % plan.vector_elements == 0, p, "a group is whole vectors");
  expect(plan.vector_elements == 1 || p.spatial >= plan.vector_elements, p, "a vector touches two channels at most");
  expect(plan.tiles == p.batch * p.num_groups, p, "a tile per group");
  expect(plan.parts * plan.part_length >= vectors, p, "the parts cover the group");
  if (plan.regime == Regime::kWarp) {
    expect(vectors <= std::int64_t{32} * plan.vectors_per_thread, p, "the group fits a warp's registers");
  }
  if (plan.regime == Regime::kRegisters) {
    expect(plan.part_length <= std::int64_t{plan.threads} * plan.vectors_per_thread, p, "the part fits the registers");
    expect(plan.vector_elements > 1, p, "only aligned groups are held in registers by a block");
  }
  if (plan.regime == Regime::kShared) {
    const auto bytes = static_cast<std::int64_t>(element_bytes(p.dtype)) * plan.vector_elements * plan.part_length;
    expect(plan.shared_bytes >= cuda::kHeaderBytes + bytes + (plan.vector_elements == 1 ? 16 : 0), p,
           "the part fits shared memory");
  }
  if (plan.regime == Regime::kSplit) {
    expect((plan.parts - 1) * plan.part_length < vectors, p, "no part is empty");
    expect(std::int64_t{plan.step_length} <= std::int64_t{plan.threads} * plan.vectors_per_thread * 16, p,
           "the second launch holds a step");
  }
}

void check_channels_last(const GroupNormProblem& p, const LaunchPlan& plan) {
  const std::int64_t group_channels = p.channels / p.num_groups;
  const std::int64_t width = std::int64_t{plan.columns} * plan.vector_elements;
  expect(plan.vector_elements == 1 || p.channels % plan.vector_elements == 0, p, "rows begin at multiples of a vector");
  expect(p.num_groups % plan.groups_per_tile == 0, p, "tiles are whole in number");
  if (plan.tiles_per_group == 1) {
    expect(width == plan.groups_per_tile * group_channels, p, "a tile holds whole groups");
  } else {
    expect(plan.groups_per_tile == 1 && plan.tiles_per_group * width >= group_channels &&
               (plan.tiles_per_group - 1) * width < group_channels,
           p, "tiles cover a wide group");
    expect(plan.regime == Regime::kSplit, p, "a group in several tiles is split");
    expect(group_channels % plan.vector_elements == 0, p, "vectors of a part stay in its group");
  }
  expect(plan.columns * plan.rows_at_once <= plan.threads, p, "a thread per vector");
  expect(plan.threads <= (plan.regime == Regime::kShared ? cuda::kLargeColumnsThreads : cuda::kColumnsThreads), p,
         "the block is as small as the kernel was built for");
  expect(plan.parts * plan.part_length >= p.spatial, p, "the parts cover the rows");
  const auto active = plan.rows_at_once * width;
  const auto layout =
      cuda::columns_shared(active, plan.groups_per_tile, plan.regime == Regime::kSplit ? 1 : plan.parts);
  expect(plan.shared_bytes >= layout.data, p, "the block's areas fit");
  if (plan.regime == Regime::kRegisters) {
    expect(plan.part_length <= plan.rows_at_once * plan.vectors_per_thread, p, "the part fits the registers");
  }
  if (plan.regime == Regime::kShared) {
    const auto row_bytes = width * static_cast<std::int64_t>(element_bytes(p.dtype));
    expect(plan.shared_bytes >= layout.data + plan.part_length * row_bytes, p, "the part fits shared memory");
  }
  if (plan.regime == Regime::kSplit) {
    expect((plan.parts - 1) * plan.part_length < p.spatial, p, "no part is empty");
    expect(plan.step_length <= plan.rows_at_once * plan.vectors_per_thread, p, "a step fits the registers");
    expect(plan.part_length % plan.step_length == 0, p, "a part is whole steps");
  }
}

void check_any(const GroupNormProblem& p, const DeviceLimits& limits, bool aligned, std::int64_t max_grid) {
  const LaunchPlan plan = cuda::make_plan(p, limits, aligned, max_grid);
  if (p.batch == 0 || p.channels == 0 || p.spatial == 0) {
    expect(plan.regime == Regime::kNothing && plan.workspace_bytes == 0, p, "nothing to do");
    return;
  }
  expect(plan.regime != Regime::kNothing, p, "something to do");
  expect(plan.threads > 0 && plan.threads % 32 == 0 && plan.threads <= 1024, p, "whole warps");
  expect(plan.shared_bytes <= limits.shared_memory_per_block_optin, p, "shared memory within the device's limit");
  expect(plan.grid_blocks > 0 && plan.grid_blocks <= std::max<std::int64_t>(max_grid, plan.parts), p, "grid limit");
  if (plan.regime != Regime::kWarp) expect(plan.grid_blocks % plan.parts == 0, p, "whole tiles in the grid");
  if (plan.regime == Regime::kRegisters || plan.regime == Regime::kShared) {
    expect(plan.parts <= limits.max_cluster_blocks && (plan.parts & (plan.parts - 1)) == 0, p, "a legal cluster");
  }
  expect((plan.regime == Regime::kSplit) == (plan.workspace_bytes > 0), p, "workspace for splits only");
  for (const std::int64_t batch : {1, 2, 7, 1000}) {
    GroupNormProblem other = p;
    other.batch = batch;
    expect(same_order(plan, cuda::make_plan(other, limits, aligned, max_grid)), p, "the plan depends on the batch");
  }
  p.layout == Layout::kChannelsFirst ? check_channels_first(p, plan) : check_channels_last(p, plan);
}

void check_random_shapes() {
  std::mt19937_64 random(1);
  auto draw = [&](std::int64_t low, std::int64_t high) {
    // Uniform in the logarithm: as many small sizes as large ones.
    const double t = std::uniform_real_distribution<double>(std::log(double(low)), std::log(double(high) + 1))(random);
    return std::clamp(static_cast<std::int64_t>(std::exp(t)), low, high);
  };
  const DeviceLimits devices[] = {kTuring, kAmpere, kHopper, kPortableHopper, kBlackwellDesktop};
  for (int i = 0; i < 20000; ++i) {
    GroupNormProblem p;
    p.num_groups = draw(1, 128);
    p.channels = p.num_groups * draw(1, i % 7 == 0 ? 20000 : 256);
    p.spatial = draw(1, i % 11 == 0 ? std::int64_t{1} << 33 : 1 << 20);
    p.batch = i % 97 == 0 ? 0 : draw(1, 64);
    p.dtype = static_cast<DType>(i % 3);
    p.layout = static_cast<Layout>(i % 2);
    for (const DeviceLimits& limits : devices) {
      for (const bool aligned : {true, false}) {
        for (const std::int64_t max_grid : {std::int64_t{3}, cuda::kMaxGridBlocks})
          check_any(p, limits, aligned, max_grid);
      }
    }
  }
}

struct Known {
  const char* name;
  std::int64_t batch, channels, spatial, num_groups;
  Layout layout;
  Regime regime;
  int parts;
};

constexpr Layout kFirst = Layout::kChannelsFirst;
constexpr Layout kLast = Layout::kChannelsLast;

// float16 on an H100. parts: the cluster's size; 0 where only the regime matters.
constexpr Known kKnown[] = {
    {"detector P3", 1, 256, 100 * 168, 32, kFirst, Regime::kShared, 4},
    {"detector P4", 1, 256, 50 * 84, 32, kFirst, Regime::kRegisters, 4},
    {"detector P7", 1, 256, 7 * 11, 32, kFirst, Regime::kWarp, 1},
    {"FPN P2", 1, 256, 200 * 336, 32, kFirst, Regime::kShared, 16},
    {"box head", 100, 256, 14 * 14, 32, kFirst, Regime::kWarp, 1},
    {"SegResNet 512x512", 1, 32, 512 * 512, 8, kFirst, Regime::kShared, 16},
    {"SegResNet 128^3", 1, 32, 128 * 128 * 128, 8, kFirst, Regime::kSplit, 0},
    {"UNet 64x64", 2, 320, 64 * 64, 32, kFirst, Regime::kRegisters, 4},
    {"UNet 8x8", 2, 2560, 8 * 8, 32, kFirst, Regime::kRegisters, 1},
    {"VAE 512x512", 1, 128, 512 * 512, 32, kFirst, Regime::kShared, 16},
    {"VAE 512x512, 256 channels", 1, 256, 512 * 512, 32, kFirst, Regime::kSplit, 0},
    {"speech, odd length", 1, 512, 3999, 512, kFirst, Regime::kShared, 1},
    {"UNet 64x64, NHWC", 2, 320, 64 * 64, 32, kLast, Regime::kShared, 8},
    {"detector P3, NHWC", 1, 256, 100 * 168, 32, kLast, Regime::kShared, 8},
    {"VAE 512x512, NHWC", 1, 128, 512 * 512, 32, kLast, Regime::kSplit, 0},
};

void check_known_shapes() {
  static constexpr const char* kRegimes[] = {"nothing", "warp", "registers", "shared", "split"};
  std::printf("%-28s %-10s %6s %8s %8s %8s %10s\n", "float16, 132 SMs", "regime", "parts", "threads", "vectors",
              "shared", "blocks");
  for (const Known& known : kKnown) {
    GroupNormProblem p;
    p.batch = known.batch;
    p.channels = known.channels;
    p.spatial = known.spatial;
    p.num_groups = known.num_groups;
    p.layout = known.layout;
    p.dtype = DType::kFloat16;
    const LaunchPlan plan = cuda::make_plan(p, kHopper, true);
    std::printf("%-28s %-10s %6d %8d %8d %8lld %10lld\n", known.name, kRegimes[static_cast<int>(plan.regime)],
                plan.parts, plan.threads, plan.vectors_per_thread, static_cast<long long>(plan.shared_bytes),
                static_cast<long long>(plan.grid_blocks));
    expect(plan.regime == known.regime, p, "another regime than known");
    expect(known.parts == 0 || plan.parts == known.parts, p, "another number of parts than known");
    expect(
        plan.regime == Regime::kSplit || cuda::make_plan(p, kHopper, false).workspace_bytes == 0 || p.layout == kLast,
        p, "no workspace where one read suffices");
  }
}

}  // namespace
}  // namespace gn::testing

int main() {
  gn::testing::check_known_shapes();
  gn::testing::check_random_shapes();
  std::printf("%d failures\n", gn::testing::failures);
  return gn::testing::failures == 0 ? 0 : 1;
}
