// Index arithmetic beyond 2^31 elements, without the memory that such a tensor would take.
#include <cstdio>
#include <random>
#include <vector>

#include "columns.cuh"
#include "contiguous.cuh"
#include "cuda_cases.h"
#include "launch_group_norm.cuh"

namespace gn::testing {
namespace {

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("FAIL %s\n", what);
  ++failures;
}

void check_fast_division() {
  std::mt19937_64 random(1);
  auto check = [](std::uint32_t divisor, std::uint32_t dividend) {
    const cuda::FastDivisor d = cuda::make_fast_divisor(divisor);
    const std::uint32_t quotient = (cuda::multiply_high(dividend, d.multiplier) + dividend) >> d.shift;
    expect(quotient == dividend / divisor, "fast division");
  };
  constexpr std::uint32_t kMost = 1U << 31;
  for (const std::uint32_t divisor : {1U, 2U, 3U, 7U, 49U, 641U, 65535U, 65536U, 65537U, kMost - 1, kMost}) {
    for (const std::uint32_t dividend : {0U, 1U, divisor - 1, divisor, divisor + 1, kMost - 1}) {
      if (dividend < kMost) check(divisor, dividend);
    }
  }
  for (int i = 0; i < 1000000; ++i) {
    check(static_cast<std::uint32_t>(random() % kMost) + 1, static_cast<std::uint32_t>(random() % kMost));
    check(static_cast<std::uint32_t>(random() % 5000) + 1, static_cast<std::uint32_t>(random() % kMost));
  }
}

// Which channel's scale an element gets, in groups of 2 channels that begin and end anywhere in a run.
void check_channels(std::int64_t spatial) {
  GroupNormProblem problem;
  problem.batch = 3;
  problem.channels = 8;
  problem.num_groups = 4;
  problem.spatial = spatial;
  problem.epsilon = 0;
  const std::vector<float> scale = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<float> bias(8, 0.0F);
  cuda::LaunchPlan plan;
  plan.tiles = problem.batch * problem.num_groups;
  const auto p = cuda::contiguous_params(problem, {nullptr, scale.data(), bias.data(), nullptr}, plan, nullptr);
  const std::int64_t n = 2 * spatial;
  constexpr int kRun = 1 << 16;
  for (const std::int64_t group : {0, 3, 11}) {
    for (const std::int64_t start :
         {std::int64_t{0}, spatial / 8 * 4, spatial / 4 * 4 - 8, spatial, spatial + 12, n - 4}) {
      if (start < 0) continue;
      const cuda::ContiguousRun<float> run{nullptr, nullptr, start,
                                           static_cast<int>(std::min<std::int64_t>(kRun, n - start))};
      const cuda::ContiguousAffine<float> affine(p, group, run, {0, 0, 1, 1});
      for (std::int64_t index = 0; index + 4 <= run.elements; index += index < 64 ? 1 : 1021) {
        cuda::Floats<4> ones{{1, 1, 1, 1}};
        affine(index, ones);
        for (int e = 0; e < 4; ++e) {
          const std::int64_t channel = group % 4 * 2 + (start + index + e) / spatial;
          expect(ones.value[e] == scale[static_cast<std::size_t>(channel)], "the element's channel");
        }
      }
    }
  }
}

void check_columns() {
  GroupNormProblem problem;
  problem.batch = 5;
  problem.channels = 40;
  problem.num_groups = 4;
  problem.spatial = std::int64_t{1} << 33;
  problem.layout = Layout::kChannelsLast;
  problem.dtype = DType::kFloat16;
  const auto plan = cuda::make_plan(problem, {80, 108, 166912, 40 << 20, 1}, true);
  const auto p = cuda::columns_params(problem, {}, plan, nullptr);
  const std::int64_t last = p.tiles * p.parts - 1;
  const cuda::ColumnsUnit unit = cuda::columns_unit(p, last, plan.vector_elements);
  expect(unit.end_row == problem.spatial, "the last unit ends with the last row");
  expect(unit.group + p.groups_per_tile == 20, "the last unit holds the last group");
  expect(unit.channel + unit.width == 40, "the last unit ends with the last channel");
  expect(unit.offset == 4 * 40 * problem.spatial + unit.channel, "the last unit lies in the last sample");
  expect(cuda::columns_unit(p, 0, plan.vector_elements).offset == 0, "the first unit begins at the first element");
}

void check_runs() {
  cuda::ContiguousParams p{};
  p.group_elements = std::int64_t{5} << 30;
  p.x = reinterpret_cast<const void*>(std::uintptr_t{1} << 40);
  const auto far = cuda::contiguous_run<float>(p, 77, (std::int64_t{4} << 30) + 3, (std::int64_t{4} << 30) + 10);
  const std::uintptr_t bytes = reinterpret_cast<std::uintptr_t>(far.x) - (std::uintptr_t{1} << 40);
  expect(bytes == 4 * ((std::uintptr_t{77 * 5 + 4} << 30) + 3) && far.elements == 7, "a run far into the tensor");
  p.x = nullptr;
  const auto run = cuda::contiguous_run<float>(p, 0, p.group_elements - 100, p.group_elements + 4000);
  expect(run.elements == 100 && run.start == p.group_elements - 100, "a run ends with its group");
  expect(cuda::contiguous_run<float>(p, 0, p.group_elements, p.group_elements + 1).elements == 0, "a run may be empty");
}

}  // namespace
}  // namespace gn::testing

int main() {
  using namespace gn::testing;
  check_fast_division();
  for (const std::int64_t spatial : {std::int64_t{4}, std::int64_t{7}, std::int64_t{16800}, std::int64_t{1} << 31,
                                     (std::int64_t{1} << 31) - 4, (std::int64_t{3} << 30) + 1}) {
    check_channels(spatial);
  }
  check_columns();
  check_runs();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
