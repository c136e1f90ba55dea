#include "ort/group_norm_kernel.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "gn/group_norm_cpu.h"
#if GN_WITH_CUDA
#include "gn/group_norm_cuda.h"
#endif

namespace gn::ort {
namespace {

std::string text(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return out + "]";
}

std::string node_name(const Api& api, const KernelInfo* info) {
  std::size_t size = 0;  // counts the terminating zero
  if (Status* status = api.KernelInfo_GetNodeName(info, nullptr, &size)) api.ReleaseStatus(status);
  std::string name(size, '\0');
  if (size == 0) return name;
  if (Status* status = api.KernelInfo_GetNodeName(info, name.data(), &size)) {
    api.ReleaseStatus(status);
    return {};
  }
  name.resize(size - 1);
  return name;
}

// The attribute, or `missing` when the node does not have it.
template <typename T>
T attribute(const Api& api, Status* (*get)(const KernelInfo*, const char*, T*), const KernelInfo* info,
            const char* name, T missing) {
  T value{};
  Status* status = get(info, name, &value);
  if (status == nullptr) return value;
  api.ReleaseStatus(status);
  return missing;
}

}  // namespace

struct GroupNormKernel::Inputs {
  const Value* x = nullptr;
  const Value* scale = nullptr;
  const Value* bias = nullptr;
};

GroupNormKernel::GroupNormKernel(const OpSpec& spec, const Api& api, const KernelInfo* info)
    : spec_(spec), api_(api), node_(node_name(api, info)), device_scratch_(api) {
  read_attributes(info);
}

void GroupNormKernel::fail(const std::string& what, ErrorCode code) const {
  const std::string op = (spec_.domain.empty() ? "ai.onnx" : spec_.domain) + "::" + spec_.name;
  throw Error(code, op + " node '" + node_ + "': " + what);
}

void GroupNormKernel::read_attributes(const KernelInfo* info) {
  constexpr auto kMissing = std::numeric_limits<std::int64_t>::min();
  const std::int64_t num_groups = attribute(api_, api_.KernelInfoGetAttribute_int64, info, "num_groups", kMissing);
  if (num_groups == kMissing) fail("the attribute num_groups (int) is missing");
  if (num_groups < 1) fail("num_groups is " + std::to_string(num_groups) + "; expected at least 1");
  const float epsilon = attribute(api_, api_.KernelInfoGetAttribute_float, info, "epsilon", 1e-5F);
  if (!(epsilon >= 0.0F) || std::isinf(epsilon)) {
    fail("epsilon is " + std::to_string(epsilon) + "; expected a finite number that is not negative");
  }
  const std::int64_t stash = attribute(api_, api_.KernelInfoGetAttribute_int64, info, "stash_type", std::int64_t{1});
  if (stash != 1 && stash != 10 && stash != 11 && stash != 16) {
    fail("stash_type is " + std::to_string(stash) + "; expected 1 (float), 10 (float16), 11 (double) or 16 (bfloat16)");
  }
  const float alpha = attribute(api_, api_.KernelInfoGetAttribute_float, info, "alpha", 0.01F);
  attributes_.num_groups = num_groups;
  attributes_.epsilon = static_cast<double>(epsilon);
  attributes_.dtype = spec_.dtype;
  attributes_.layout = spec_.layout;
  attributes_.activation = spec_.activation;
  attributes_.alpha = spec_.activation == Activation::kLeakyRelu ? alpha : 0.0F;
}

Shape GroupNormKernel::checked_shape(const Inputs& inputs) const {
  Shape shape = shape_of(api_, inputs.x);
  const bool last = spec_.layout == Layout::kChannelsLast;
  if (shape.size() < 2) {
    fail("X has shape " + text(shape) + "; expected " + (last ? "[N, ..., C]" : "[N, C, ...]") + " of rank 2 or more");
  }
  const std::int64_t channels = last ? shape.back() : shape[1];
  if (channels % attributes_.num_groups != 0) {
    fail("X has shape " + text(shape) + " with " + std::to_string(channels) + " channels, which num_groups " +
         std::to_string(attributes_.num_groups) + " does not divide");
  }
  const Shape expected{channels};
  for (const auto& [name, value] : {std::pair{"scale", inputs.scale}, std::pair{"bias", inputs.bias}}) {
    const Shape actual = shape_of(api_, value);
    if (actual != expected && !(broadcasts_scale() && actual == Shape{1})) {
      fail(std::string(name) + " has shape " + text(actual) + "; expected " + text(expected) +
           ", one per channel of X " + text(shape));
    }
  }
  return shape;
}

// The function body of ai.onnx GroupNormalization broadcasts, and ONNX's version converter writes models that rely on
// it: one group, and a scale of one element. Such models ran before our kernel took over, so they have to run on it.
bool GroupNormKernel::broadcasts_scale() const { return spec_.domain.empty(); }

const void* GroupNormKernel::per_channel(const Value* value, const GroupNormProblem& problem,
                                         std::vector<std::byte>* storage) const {
  const auto* data = static_cast<const std::byte*>(data_of(api_, value));
  if (problem.channels == 1 || !broadcasts_scale() || shape_of(api_, value) != Shape{1}) return data;
  const std::size_t bytes = problem.dtype == DType::kFloat64 ? 8 : problem.dtype == DType::kFloat32 ? 4 : 2;
  storage->resize(static_cast<std::size_t>(problem.channels) * bytes);
  for (std::size_t i = 0; i < storage->size(); ++i) (*storage)[i] = data[i % bytes];
  return storage->data();
}

void GroupNormKernel::compute(KernelContext* context) const {
  std::size_t count = 0;
  check(api_, api_.KernelContext_GetInputCount(context, &count));
  if (count != 3) fail(std::to_string(count) + " inputs; expected X, scale and bias");
  Inputs inputs;
  check(api_, api_.KernelContext_GetInput(context, 0, &inputs.x));
  check(api_, api_.KernelContext_GetInput(context, 1, &inputs.scale));
  check(api_, api_.KernelContext_GetInput(context, 2, &inputs.bias));
  const Shape shape = checked_shape(inputs);
  Value* y = nullptr;
  check(api_, api_.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &y));

  // Before anything is multiplied: beside a 0 the other sizes may be of any magnitude.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return;

  GroupNormProblem problem = attributes_;
  problem.batch = shape[0];
  problem.channels = spec_.layout == Layout::kChannelsLast ? shape.back() : shape[1];
  problem.spatial = 1;
  const std::size_t first_spatial = spec_.layout == Layout::kChannelsLast ? 1 : 2;
  for (std::size_t i = 0; i + 2 < shape.size(); ++i) problem.spatial *= shape[first_spatial + i];

  std::vector<std::byte> scale;
  std::vector<std::byte> bias;
  GroupNormBuffers buffers;
  buffers.x = data_of(api_, inputs.x);
  buffers.y = data_of(api_, y);
  if (spec_.provider == Provider::kCuda) {
    buffers.scale = data_of(api_, inputs.scale);
    buffers.bias = data_of(api_, inputs.bias);
    buffers.one_scale = shape_of(api_, inputs.scale) == Shape{1};
    buffers.one_bias = shape_of(api_, inputs.bias) == Shape{1};
    run_cuda(context, problem, inputs, buffers, shape);
  } else {
    buffers.scale = per_channel(inputs.scale, problem, &scale);
    buffers.bias = per_channel(inputs.bias, problem, &bias);
    run_cpu(context, problem, inputs, buffers);
  }
}

void GroupNormKernel::run_cpu(KernelContext* context, const GroupNormProblem& problem, const Inputs& inputs,
                              const GroupNormBuffers& buffers) const {
  struct Pool {
    const Api* api;
    const KernelContext* context;
  } pool{&api_, context};
  const Scratch scratch(api_, context, inputs.x, group_norm_cpu_workspace_bytes(problem));
  const Parallel parallel{[](void* opaque, std::size_t count, void (*body)(void*, std::size_t), void* state) {
                            const auto* p = static_cast<const Pool*>(opaque);
                            check(*p->api, p->api->KernelContext_ParallelFor(p->context, body, count, 0, state));
                          },
                          &pool};
  group_norm_cpu(problem, buffers, scratch.data(), parallel);
}

void GroupNormKernel::run_cuda(KernelContext* context, const GroupNormProblem& problem, const Inputs& inputs,
                               const GroupNormBuffers& buffers, const Shape& shape) const {
#if GN_WITH_CUDA
  void* stream = nullptr;
  check(api_, api_.KernelContext_GetGPUComputeStream(context, &stream));
  DeviceLimits limits;
  CudaError error = current_device_limits(&limits);
  if (error == 0) {
    try {
      device_scratch_.with(context, inputs.x, stream, group_norm_cuda_workspace_bytes(problem, limits),
                           [&](void* scratch) { error = group_norm_cuda(problem, buffers, limits, scratch, stream); });
    } catch (const Error& no_memory) {
      fail("X " + text(shape) + ": no scratch memory: " + no_memory.what(), no_memory.code());
    }
  }
  if (error != 0) {
    fail("X " + text(shape) + ": CUDA error " + std::to_string(error) + ", " + cuda_error_string(error),
         ErrorCode::kFail);
  }
#else
  static_cast<void>(context);
  static_cast<void>(problem);
  static_cast<void>(inputs);
  static_cast<void>(buffers);
  fail("X " + text(shape) + ": this library was built without CUDA");
#endif
}

}  // namespace gn::ort
