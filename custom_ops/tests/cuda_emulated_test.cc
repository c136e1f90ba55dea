// The CUDA kernels, run by the emulation, against the definition in float64.
//
// Every case names what it reaches, and the test ends by checking that every kernel was reached in every type. The
// emulated device is far smaller than a real one, so that small tensors need clusters and splits.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>

#include "cuda_cases.h"
#include "emu/emulator.h"
#include "launch_group_norm.h"

namespace gn::testing {
namespace {

constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

struct Device {
  const char* name;
  DeviceLimits limits;
};
constexpr Device kHopper{"sm_90", {90, 132, 232448, 50 << 20, 16}};
constexpr Device kSmallHopper{"small sm_90", {90, 132, 12 * 1024, 50 << 20, 4}};
constexpr Device kTinyHopper{"tiny sm_90", {90, 4, 5 * 1024, 50 << 20, 8}};
constexpr Device kAmpere{"sm_80", {80, 108, 167936, 40 << 20, 1}};
// Two multiprocessors: one block per tile is never too few.
constexpr Device kSmallAmpere{"small sm_80", {80, 2, 167936, 40 << 20, 1}};
constexpr Device kRoomyHopper{"roomy sm_90", {90, 132, 60 * 1024, 50 << 20, 4}};
// No cluster but where one block has no room.
constexpr Device kFewHopper{"few sm_90", {90, 2, 232448, 50 << 20, 2}};
constexpr Device kTinyAmpere{"tiny sm_80", {80, 4, 5 * 1024, 40 << 20, 1}};

// A buffer of exactly the bytes asked for, beginning `shift` bytes after a multiple of 16; ASan sees both ends.
class Buffer {
 public:
  Buffer(std::size_t bytes, std::size_t shift) : memory(new unsigned char[bytes + shift + 1]), bytes(bytes) {
    // The allocation is aligned to 16; an exact end matters more than an exact beginning.
    begin = memory.get() + shift;
    std::memset(memory.get(), 0xff, bytes + shift + 1);
  }
  unsigned char* data() const { return begin; }
  std::size_t size() const { return bytes; }
  bool neighbours_intact() const {
    bool intact = begin[bytes] == 0xff;
    for (const unsigned char* p = memory.get(); p != begin; ++p) intact = intact && *p == 0xff;
    return intact;
  }

 private:
  std::unique_ptr<unsigned char[]> memory;
  unsigned char* begin;
  std::size_t bytes;
};

int failures = 0;
int checks = 0;
std::map<std::string, std::set<DType>> reached;

void fail(const std::string& what) {
  std::printf("FAIL %s\n", what.c_str());
  ++failures;
}

std::string kernel_name(const cuda::LaunchPlan& plan, Layout layout) {
  static constexpr const char* kRegimes[] = {"nothing", "warp", "registers", "shared", "split"};
  std::string name = layout == Layout::kChannelsLast ? "columns " : "contiguous ";
  name += kRegimes[static_cast<int>(plan.regime)];
  name += plan.vector_elements > 1 ? " wide" : " scalar";
  const bool on_chip = plan.regime == cuda::Regime::kRegisters || plan.regime == cuda::Regime::kShared;
  if (plan.regime == cuda::Regime::kWarp ||
      (plan.regime == cuda::Regime::kRegisters && layout == Layout::kChannelsFirst)) {
    name += " x" + std::to_string(plan.vectors_per_thread);
  }
  const int usual = layout == Layout::kChannelsLast ? cuda::kColumnsThreads : cuda::kBlockThreads;
  if (on_chip && plan.threads > usual) name += " large";
  if (on_chip) name += plan.parts > 1 ? " cluster" : " block";
  if (plan.tiles_per_group > 1) name += " parts of groups";
  return name;
}

CudaError run(const GroupNormProblem& problem, const GroupNormBuffers& buffers, const cuda::LaunchPlan& plan) {
  Buffer workspace(static_cast<std::size_t>(plan.workspace_bytes), 0);
  switch (problem.dtype) {
    case DType::kFloat32:
      return cuda::launch_group_norm_float32(problem, buffers, plan, workspace.data(), nullptr);
    case DType::kFloat16:
      return cuda::launch_group_norm_float16(problem, buffers, plan, workspace.data(), nullptr);
    default:
      return cuda::launch_group_norm_bfloat16(problem, buffers, plan, workspace.data(), nullptr);
  }
}

struct Case {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t spatial;
  std::int64_t num_groups;
  Layout layout = Layout::kChannelsFirst;
  Device device = kHopper;
  std::int64_t x_shift = 0;  // elements from a multiple of 16 bytes
  std::int64_t y_shift = 0;
  std::int64_t max_grid = cuda::kMaxGridBlocks;
};

struct Tensors {
  Buffer x, scale, bias, y;
};

Tensors make_tensors(const GroupNormProblem& p, const Case& c, Input input, unsigned seed) {
  const auto size = element_bytes(p.dtype);
  const auto bytes = static_cast<std::size_t>(p.batch * p.channels * p.spatial) * size;
  const auto channel_bytes = static_cast<std::size_t>(p.channels) * size;
  Tensors t{Buffer(bytes, static_cast<std::size_t>(c.x_shift) * size), Buffer(channel_bytes, 0),
            Buffer(channel_bytes, 0), Buffer(bytes, static_cast<std::size_t>(c.y_shift) * size)};
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  for (std::int64_t i = 0; i < p.batch * p.channels * p.spatial; ++i) {
    write_element(t.x.data(), i, p.dtype, shape_input(input, normal(random), p.epsilon, p.dtype));
  }
  for (std::int64_t i = 0; i < p.channels; ++i) {
    write_element(t.scale.data(), i, p.dtype, 1.0 + 0.5 * normal(random));
    write_element(t.bias.data(), i, p.dtype, normal(random));
  }
  return t;
}

void compare(const GroupNormProblem& p, const std::vector<double>& expected, const Buffer& y, const std::string& what) {
  double worst = 0;
  std::int64_t worst_at = -1;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double found = read_element(y.data(), static_cast<std::int64_t>(i), p.dtype);
    const double error = std::fabs(found - expected[i]) / tolerance(p.dtype, std::fabs(expected[i]));
    if (!(error <= worst)) {  // also when it is not a number
      worst = error;
      worst_at = static_cast<std::int64_t>(i);
      if (std::isnan(error)) break;
    }
  }
  ++checks;
  if (!(worst <= 1.0)) {
    const auto at = static_cast<std::size_t>(worst_at);
    fail(what + ": at " + std::to_string(worst_at) + " expected " + std::to_string(expected[at]) + ", found " +
         std::to_string(read_element(y.data(), worst_at, p.dtype)) + ", " + std::to_string(worst) +
         " times the tolerance");
  }
  if (!y.neighbours_intact()) fail(what + ": wrote outside y");
}

void check(const Case& c, DType dtype, Activation activation, Input input) {
  GroupNormProblem p;
  p.batch = c.batch;
  p.channels = c.channels;
  p.spatial = c.spatial;
  p.num_groups = c.num_groups;
  p.dtype = dtype;
  p.layout = c.layout;
  p.activation = activation;
  p.alpha = 0.1F;
  const auto plan = cuda::make_plan(p, c.device.limits, c.x_shift == 0 && c.y_shift == 0, c.max_grid);
  const std::string kernel = kernel_name(plan, p.layout);
  const std::string what = describe(p) + " [" + kernel + ", " + c.device.name + ", shifts " +
                           std::to_string(c.x_shift) + " " + std::to_string(c.y_shift) + ", " +
                           kInputNames[static_cast<int>(input)] + "]";
  reached[kernel].insert(dtype);
  Tensors t = make_tensors(p, c, input, static_cast<unsigned>(checks) + 1);
  const std::vector<double> expected = reference(p, t.x.data(), t.scale.data(), t.bias.data());
  const GroupNormBuffers buffers{t.x.data(), t.scale.data(), t.bias.data(), t.y.data()};
  try {
    emulation::set_backwards(false);
    if (run(p, buffers, plan) != 0) return fail(what + ": error");
    compare(p, expected, t.y, what);

    // The same bits again, whatever the order in which the threads get their turn.
    Buffer again(t.y.size(), static_cast<std::size_t>(c.y_shift) * element_bytes(dtype));
    emulation::set_backwards(true);
    run(p, {t.x.data(), t.scale.data(), t.bias.data(), again.data()}, plan);
    if (std::memcmp(again.data(), t.y.data(), t.y.size()) != 0) fail(what + ": a second run gave other bits");

    // The last sample alone, in a buffer of its own: the same bits as in the batch.
    if (p.batch > 1) {
      GroupNormProblem one = p;
      one.batch = 1;
      const std::size_t sample_bytes = t.x.size() / static_cast<std::size_t>(p.batch);
      Buffer x(sample_bytes, static_cast<std::size_t>(c.x_shift) * element_bytes(dtype));
      Buffer y(sample_bytes, static_cast<std::size_t>(c.y_shift) * element_bytes(dtype));
      std::memcpy(x.data(), t.x.data() + t.x.size() - sample_bytes, sample_bytes);
      run(one, {x.data(), t.scale.data(), t.bias.data(), y.data()},
          cuda::make_plan(one, c.device.limits, c.x_shift == 0 && c.y_shift == 0, c.max_grid));
      if (std::memcmp(y.data(), t.y.data() + t.y.size() - sample_bytes, sample_bytes) != 0) {
        fail(what + ": a sample alone has other bits than in its batch");
      }
    }

    // In place.
    if (c.x_shift == c.y_shift) {
      run(p, {t.x.data(), t.scale.data(), t.bias.data(), t.x.data()}, plan);
      if (std::memcmp(t.x.data(), t.y.data(), t.y.size()) != 0) fail(what + ": in place gave other bits");
    }
  } catch (const std::logic_error& error) {
    fail(what + ": " + error.what());
  }
}

constexpr Layout kLast = Layout::kChannelsLast;
constexpr Layout kFirst = Layout::kChannelsFirst;

const Case kCases[] = {
    // Channels first, one warp per group: 1, 2, 4 and 8 vectors a lane; rows that end inside a vector; one element.
    {7, 8, 16, 4},
    {3, 32, 49, 4},
    {2, 16, 250, 4},
    {2, 12, 64, 2, kFirst, kHopper, 0, 0, 2},
    {2, 4, 100, 2},
    {2, 12, 90, 1},
    {1, 64, 60, 2},
    {5, 3, 1, 3},
    {2, 24, 1, 3},
    {3, 5, 7, 5},
    {2, 6, 35, 2, kFirst, kHopper, 1, 0},
    {2, 8, 16, 4, kFirst, kHopper, 0, 1},
    {1, 2, 3, 1, kFirst, kHopper, 3, 3},
    {2, 40, 3, 4},
    // One block per group, in registers: 1, 2 and 4 vectors a thread.
    {2, 8, 520, 2},
    {2, 8, 1000, 2},
    {1, 8, 2000, 2},
    {3, 8, 612, 2, kFirst, kHopper, 0, 0, 2},
    {2, 16, 500, 2, kFirst, kAmpere},
    // One block per group, in shared memory: a block of 512 threads and one of 1024, ragged ends.
    {1, 4, 4100, 1, kFirst, kAmpere},
    {2, 4, 3000, 1, kFirst, kAmpere},
    {1, 4, 14000, 1, kFirst, kSmallAmpere},
    {2, 4, 7000, 1, kFirst, kSmallAmpere, 0, 0, 1},
    // Unaligned groups, staged in shared memory; x and y misaligned alike and differently.
    {2, 3, 1001, 3},
    {3, 5, 333, 1, kFirst, kHopper, 1, 1},
    {2, 4, 501, 2, kFirst, kHopper, 1, 0},
    {2, 4, 500, 2, kFirst, kHopper, 0, 3},
    {2, 2000, 1, 1},
    {2, 1500, 3, 1},
    {3, 7, 601, 1, kFirst, kHopper, 0, 0, 1},
    {1, 1, 30001, 1, kFirst, kAmpere},
    {1, 1, 61001, 1, kFirst, kSmallAmpere},
    {1, 3, 10001, 1, kFirst, kSmallAmpere},
    // Clusters: every tile, the last part shorter or empty.
    {2, 8, 4096, 2},
    {2, 4, 9000, 2, kFirst, kSmallHopper},
    {2, 2, 12001, 2, kFirst, kSmallHopper},
    {2, 8, 3000, 1, kFirst, kTinyHopper, 0, 0, 8},
    {2, 3, 4501, 1, kFirst, kTinyHopper, 0, 0, 8},
    {1, 32, 8192, 2},
    {1, 8, 80000, 2},
    {1, 4, 32504, 1, kFirst, kFewHopper},
    {1, 4, 16000, 1, kFirst, kFewHopper},
    {2, 3, 3001, 1},
    {1, 3, 3301, 1, kFirst, kSmallHopper},
    // Splits: one step and several steps a part, aligned and not.
    {2, 4, 5000, 1, kFirst, kTinyAmpere},
    {3, 2, 20000, 1, kFirst, kTinyAmpere, 0, 0, 3},
    {2, 3, 7001, 1, kFirst, kTinyAmpere},
    {2, 4, 5000, 1, kFirst, kTinyAmpere, 1, 0},
    {1, 4, 40000, 1, kFirst, kTinyAmpere},
    {2, 6001, 3, 1, kFirst, kTinyAmpere},
    // Splits whose second launch may begin before the first has ended.
    {1, 2, 20000, 1, kFirst, kTinyHopper},
    {1, 3, 9001, 1, kFirst, kTinyHopper},
    {1, 32, 3000, 4, kLast, kTinyHopper},
    // Channels last, on chip in registers and shared memory: groups narrower and wider than a vector, odd widths.
    {3, 32, 49, 8, kLast},
    {2, 64, 36, 8, kLast},
    {2, 40, 30, 4, kLast},
    {2, 32, 100, 32, kLast},
    {2, 15, 21, 5, kLast},
    {2, 7, 200, 1, kLast},
    {2, 64, 33, 8, kLast, kHopper, 1, 1},
    {2, 64, 300, 4, kLast, kAmpere},
    {2, 96, 300, 3, kLast, kHopper, 0, 0, 2},
    {1, 32, 2000, 4, kLast, kAmpere},
    {1, 30, 700, 3, kLast, kAmpere},
    {2, 33, 800, 3, kLast, kAmpere, 0, 0, 1},
    {1, 32, 1700, 4, kLast, kSmallAmpere},
    {1, 32, 2300, 4, kLast, kSmallAmpere},
    {2, 25, 1100, 5, kLast, kSmallAmpere},
    {1, 25, 2200, 5, kLast, kSmallAmpere},
    {2, 24, 1, 3, kLast},
    {1, 3, 5, 1, kLast},
    {1, 2000, 2, 1, kLast},
    // Channels last, clusters.
    {2, 64, 1600, 4, kLast},
    {1, 64, 800, 8, kLast, kTinyHopper},
    {2, 30, 1500, 3, kLast, kSmallHopper, 0, 0, 8},
    {1, 32, 3000, 32, kLast, kRoomyHopper},
    {1, 25, 3000, 5, kLast, kRoomyHopper},
    {2, 25, 1300, 5, kLast, kRoomyHopper},
    {2, 32, 1400, 4, kLast, kRoomyHopper, 0, 0, 4},
    {1, 32, 1400, 32, kLast, kRoomyHopper},
    {1, 32, 4100, 4, kLast, kFewHopper},
    {2, 32, 1700, 4, kLast, kFewHopper},
    {1, 25, 901, 5, kLast, kRoomyHopper},
    {1, 25, 1201, 5, kLast, kRoomyHopper},
    {1, 25, 2301, 5, kLast, kRoomyHopper},
    // Channels last, splits; groups wider than a block's threads.
    {2, 32, 900, 4, kLast, kTinyAmpere},
    {2, 15, 1100, 3, kLast, kTinyAmpere, 0, 0, 3},
    {1, 5000, 6, 2, kLast},
    {2, 601, 9, 1, kLast},
    {2, 5008, 40, 1, kLast, kHopper, 0, 0, 2},
};

// Every kernel that is built, as kernel_name names them.
constexpr const char* kKernels[] = {
    "contiguous warp scalar x2",
    "contiguous warp scalar x8",
    "contiguous warp wide x1",
    "contiguous warp wide x2",
    "contiguous warp wide x4",
    "contiguous warp wide x8",
    "contiguous registers wide x2 block",
    "contiguous registers wide x2 cluster",
    "contiguous registers wide x4 block",
    "contiguous registers wide x4 cluster",
    "contiguous shared wide block",
    "contiguous shared wide cluster",
    "contiguous shared wide large block",
    "contiguous shared wide large cluster",
    "contiguous shared scalar block",
    "contiguous shared scalar cluster",
    "contiguous shared scalar large block",
    "contiguous shared scalar large cluster",
    "contiguous split wide",
    "contiguous split scalar",
    "columns registers wide block",
    "columns registers wide cluster",
    "columns registers scalar block",
    "columns shared wide block",
    "columns shared wide cluster",
    "columns shared wide large block",
    "columns shared wide large cluster",
    "columns shared scalar block",
    "columns shared scalar cluster",
    "columns shared scalar large block",
    "columns shared scalar large cluster",
    "columns split wide",
    "columns split scalar",
    "columns split wide parts of groups",
    "columns split scalar parts of groups",
};

void check_everything_was_reached() {
  for (const char* kernel : kKernels) {
    for (const DType dtype : kTypes) {
      if (!reached[kernel].contains(dtype)) {
        fail(std::string("no case reaches ") + kernel + " in type " + std::to_string(static_cast<int>(dtype)));
      }
    }
  }
  for (const auto& [kernel, types] : reached) {
    if (std::ranges::find(kKernels, kernel) == std::end(kKernels)) fail("not in the list of kernels: " + kernel);
  }
}

void check_many_steps() {
  // So many parts that each holds several steps, and the blocks of the second launch read a thousand parts.
  const Device device = kTinyAmpere;
  check({1, 2, 4096 * 1100, 1, kFirst, device}, DType::kFloat16, Activation::kNone, Input::kOrdinary);
  check({1, 8, 70000, 1, kLast, device}, DType::kFloat32, Activation::kSilu, Input::kOrdinary);
}

void check_special_values() {
  // NaN and infinity reach every element of their group, and no other group.
  for (const float bad : {std::nanf(""), INFINITY}) {
    GroupNormProblem p;
    p.batch = 1;
    p.channels = 4;
    p.spatial = 64;
    p.num_groups = 2;
    p.activation = Activation::kRelu;
    Tensors t = make_tensors(p, {1, 4, 64, 2}, Input::kOrdinary, 3);
    write_element(t.x.data(), 5, p.dtype, static_cast<double>(bad));
    run(p, {t.x.data(), t.scale.data(), t.bias.data(), t.y.data()}, cuda::make_plan(p, kHopper.limits, true));
    for (std::int64_t i = 0; i < 256; ++i) {
      if (std::isnan(read_element(t.y.data(), i, p.dtype)) != (i < 128))
        fail("NaN or infinity did not stay in its group");
    }
  }
}

}  // namespace
}  // namespace gn::testing

int main(int argc, char** argv) {
  using namespace gn;
  using namespace gn::testing;
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  constexpr Input kInputs[] = {Input::kOrdinary, Input::kLowVariance, Input::kLargeMean, Input::kNearFloat16Max};
  int turn = 0;
  int quick_turn = 0;
  for (const Case& c : kCases) {
    for (const DType dtype : kTypes) {
      const Input chosen = kInputs[quick_turn++ % 4];
      for (const Input input : kInputs) {
        if (quick && input != chosen) continue;
        check(c, dtype, static_cast<Activation>(turn++ % 5), input);
      }
    }
  }
  for (const Case& c : {kCases[0], kCases[3], kCases[13], Case{2, 64, 36, 8, kLast}}) {
    for (int activation = 0; activation < 5; ++activation) {
      for (const DType dtype : kTypes) check(c, dtype, static_cast<Activation>(activation), Input::kOrdinary);
    }
  }
  if (!quick) check_many_steps();
  check_special_values();
  check_everything_was_reached();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
