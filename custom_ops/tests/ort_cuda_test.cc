// The operators of the CUDA provider, on the emulated kernels and a stand-in for ONNX Runtime: what memory they ask for
// and when they give it back, threads, shapes that are special, and what an error says.
#include <atomic>
#include <cstdio>
#include <thread>

#include "cuda_cases.h"
#include "emu/emulator.h"
#include "fake_ort.h"
#include "gn/group_norm_cpu.h"
#include "ort/stream_scratch.h"

namespace gn {

// The CPU's kernels are not what is tested here.
std::size_t group_norm_cpu_workspace_bytes(const GroupNormProblem&) { std::abort(); }
void group_norm_cpu(const GroupNormProblem&, const GroupNormBuffers&, void*, const Parallel&) { std::abort(); }

}  // namespace gn

namespace gn::testing {
namespace {

int failures = 0;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  std::printf("FAIL %s\n", what.c_str());
  ++failures;
}

const ort::Api kApi = make_api();

// The CUDA provider's kernel for one node.
class Node {
 public:
  Node(const std::string& domain, const std::string& op, std::int64_t num_groups) {
    info_ = {"head/norm", {{"num_groups", num_groups}}, {}};
    ops_ = ort::make_ops(domain, {&kApi, ort::kApiVersion});
    for (const auto& candidate : ops_) {
      const ort::OpSpec& spec = candidate->spec();
      if (spec.name == op && spec.provider == ort::Provider::kCuda && spec.dtype == DType::kFloat32)
        op_ = candidate.get();
    }
    if (op_ == nullptr || op_->CreateKernelV2(op_, &kApi, &info_, &kernel_) != nullptr) std::abort();
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node() { op_->KernelDestroy(kernel_); }

  // What ONNX Runtime would get back: "" for success.
  std::string compute(ort::KernelContext context) {
    ort::Status* status = op_->KernelComputeV2(kernel_, &context);
    if (status == nullptr) return "";
    const std::string message = std::to_string(static_cast<int>(status->code)) + " " + status->message;
    kApi.ReleaseStatus(status);
    return message;
  }

 private:
  ort::KernelInfo info_;
  std::vector<std::unique_ptr<ort::GroupNormOp>> ops_;
  const ort::GroupNormOp* op_ = nullptr;
  void* kernel_ = nullptr;
};

// x [N, C, S] of random numbers, with its scale and bias, and y.
struct Tensors {
  Tensors(std::int64_t batch, std::int64_t channels, std::int64_t spatial, std::int64_t num_groups,
          bool broadcast = false)
      : problem{.batch = batch, .channels = channels, .spatial = spatial, .num_groups = num_groups} {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& values, std::int64_t count) {
      values.resize(static_cast<std::size_t>(count));
      for (float& value : values) value = normal(random);
    };
    fill(x, batch * channels * spatial);
    fill(scale, broadcast ? 1 : channels);
    fill(bias, broadcast ? 1 : channels);
    y.assign(x.size() + 4, -77.0F);
    values = {{{batch, channels, spatial}, x.data()},
              {{broadcast ? 1 : channels}, scale.data()},
              {{broadcast ? 1 : channels}, bias.data()},
              {{}, aligned(y)}};
  }
  Tensors(const Tensors&) = delete;
  Tensors& operator=(const Tensors&) = delete;

  ort::KernelContext context(ort::Allocator& allocator, void* stream) {
    return {{&values[0], &values[1], &values[2]}, &values[3], stream, &allocator};
  }

  void expect_right(const std::string& what) {
    std::vector<float> wide_scale = scale;
    std::vector<float> wide_bias = bias;
    wide_scale.resize(static_cast<std::size_t>(problem.channels), scale[0]);
    wide_bias.resize(static_cast<std::size_t>(problem.channels), bias[0]);
    const std::vector<double> expected = reference(problem, x.data(), wide_scale.data(), wide_bias.data());
    const auto* found = static_cast<const float*>(values[3].data);
    double worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double error = std::fabs(static_cast<double>(found[i]) - expected[i]);
      worst = std::fmax(worst, error / tolerance(DType::kFloat32, std::fabs(expected[i])));
    }
    expect(worst <= 1.0, what + ": " + std::to_string(worst) + " times the tolerance");
  }

  GroupNormProblem problem;
  std::vector<float> x, scale, bias, y;
  std::vector<ort::Value> values;

 private:
  static void* aligned(std::vector<float>& values) {
    return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(values.data()) + 15) / 16 * 16);
  }
};

// So small that a group of 18000 elements needs two launches.
constexpr DeviceLimits kTiny = {80, 4, 5 * 1024, 40 << 20, 1};
constexpr DeviceLimits kHopper = {90, 132, 232448, 50 << 20, 16};

int stream_a = 0;
int stream_b = 0;
constexpr const char* kOp = "GroupNormalization";

// Groups beyond shared memory: two launches, partial moments between them.
void check_scratch() {
  emulation::set_device(kTiny);
  ort::Allocator allocator;
  {
    Node node("gn_onnx", kOp, 1);
    Tensors small(1, 2, 9000, 1);
    Tensors large(24, 2, 9000, 1);
    expect(node.compute(small.context(allocator, &stream_a)).empty(), "split on a stream");
    small.expect_right("split on a stream");
    expect(allocator.asked == 1 && allocator.live.size() == 1,
           "scratch outlives the launch: its kernels may not have run");
    expect(node.compute(small.context(allocator, &stream_a)).empty(), "split again");
    expect(allocator.asked == 1, "the same stream uses its scratch again");
    expect(node.compute(small.context(allocator, &stream_b)).empty(), "split on another stream");
    expect(allocator.asked == 2 && allocator.live.size() == 2, "no two streams share scratch");
    expect(node.compute(large.context(allocator, &stream_a)).empty(), "a larger batch");
    large.expect_right("a larger batch");
    expect(allocator.asked == 3 && allocator.given_back == 0, "a graph may still replay with the smaller scratch");
    expect(node.compute(small.context(allocator, &stream_a)).empty() && allocator.asked == 3, "large enough for small");
  }
  expect(allocator.live.empty() && allocator.given_back == 3, "all scratch is given back with the kernel");
  expect(allocator.handles == 0, "every allocator handle is released");
}

void check_one_read() {
  emulation::set_device(kHopper);
  ort::Allocator allocator;
  Node node("gn_onnx", kOp, 2);
  for (const std::int64_t spatial : {1, 49, 3000, 20000}) {
    Tensors tensors(2, 4, spatial, 2);
    const std::string what = "one read, spatial size " + std::to_string(spatial);
    expect(node.compute(tensors.context(allocator, &stream_a)).empty(), what);
    tensors.expect_right(what);
  }
  expect(allocator.asked == 0 && allocator.handles == 0, "no scratch where x is read once");
}

// Threads that share a stream must not enqueue one's second launch after the other's first.
void check_threads() {
  ort::Allocator allocator;
  ort::Value beside{{1}, nullptr};
  ort::KernelContext context{{}, nullptr, nullptr, &allocator};
  std::atomic<int> inside = 0;
  std::atomic<bool> overlapped = false;
  {
    ort::StreamScratch scratch(kApi);
    const auto work = [&](void* stream) {
      for (int i = 0; i < 500; ++i) {
        scratch.with(&context, &beside, stream, 64, [&](void* memory) {
          if (++inside != 1) overlapped = true;
          std::memset(memory, i, 64);
          std::this_thread::yield();
          --inside;
        });
      }
    };
    std::thread first(work, &stream_a);
    std::thread second(work, &stream_a);
    first.join();
    second.join();
  }
  expect(!overlapped, "threads enqueue one after the other");
  expect(allocator.asked == 1 && allocator.live.empty(), "one scratch for one stream, whatever the threads");
}

void check_special_shapes() {
  emulation::set_device(kHopper);
  ort::Allocator allocator;
  for (const auto& [batch, spatial] : {std::pair{0, 8}, std::pair{2, 0}}) {
    Node node("gn_onnx", kOp, 2);
    Tensors tensors(batch, 4, spatial, 2);
    expect(node.compute(tensors.context(allocator, &stream_a)).empty(), "a tensor without elements");
    expect(tensors.y[0] == -77.0F, "nothing is written for it");
  }
  // One scale for all channels: the standard operator's function body broadcasts.
  for (const std::int64_t spatial : {5, 64, 5000}) {
    Node node("", kOp, 1);
    Tensors tensors(2, 6, spatial, 1, true);
    expect(node.compute(tensors.context(allocator, &stream_a)).empty(), "a scale of one element");
    tensors.expect_right("a scale of one element, spatial size " + std::to_string(spatial));
  }
  // The same with channels last, which no operator with that rule has.
  Tensors last(2, 8, 50, 2, true);
  last.problem.layout = Layout::kChannelsLast;
  const GroupNormBuffers buffers{last.x.data(), last.scale.data(), last.bias.data(), last.values[3].data, true, true};
  expect(group_norm_cuda(last.problem, buffers, kHopper, nullptr, nullptr) == 0, "one scale, channels last");
  last.expect_right("one scale, channels last");
}

void check_errors() {
  ort::Allocator allocator;
  Node node("gn_onnx", "GroupNormalizationSilu", 1);
  Tensors split(1, 2, 9000, 1);
  emulation::set_device(kTiny, 700);
  const std::string launch = node.compute(split.context(allocator, &stream_a));
  emulation::set_device(kTiny);
  for (const char* part : {"1 gn_onnx::GroupNormalizationSilu", "'head/norm'", "[1, 2, 9000]", "CUDA error 700"}) {
    expect(launch.find(part) != std::string::npos, "'" + launch + "' names " + part);
  }
  allocator.empty = true;
  const std::string memory = node.compute(split.context(allocator, &stream_a));
  for (const char* part : {"1 gn_onnx::GroupNormalizationSilu", "'head/norm'", "[1, 2, 9000]", "out of memory"}) {
    expect(memory.find(part) != std::string::npos, "'" + memory + "' names " + part);
  }
  expect(allocator.handles == 0, "no allocator handle is lost when there is no memory");
  allocator.empty = false;
  expect(node.compute(split.context(allocator, &stream_a)).empty(), "the next run works again");
}

}  // namespace
}  // namespace gn::testing

int main() {
  using namespace gn::testing;
  check_scratch();
  check_one_read();
  check_threads();
  check_special_shapes();
  check_errors();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
