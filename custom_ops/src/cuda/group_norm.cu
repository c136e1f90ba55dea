// Correct first: one block per (sample, group), three reads of the tensor, any shape and alignment.
#include <cuda_runtime.h>

#include <array>
#include <mutex>

#include "activation.cuh"
#include "gn/group_norm_cuda.h"
#include "reduce.cuh"

namespace gn {
namespace cuda {
namespace {

struct Params {
  const void* x;
  const void* scale;
  const void* bias;
  void* y;
  std::int64_t groups;  // N * G
  std::int64_t num_groups;
  std::int64_t channels_per_group;
  std::int64_t spatial;
  std::int64_t row_stride;      // between positions: channels-last only
  std::int64_t channel_stride;  // between channels
  std::int64_t sample_stride;
  float epsilon;
  float alpha;
};

// grid: up to 65535 blocks that loop over the groups; block: 512 threads.
template <typename T, Activation kActivation>
__global__ void __launch_bounds__(512) group_norm_simple(Params p) {
  float* scratch = reinterpret_cast<float*>(shared_memory());
  const std::int64_t n = p.channels_per_group * p.spatial;
  for (std::int64_t group = blockIdx.x; group < p.groups; group += gridDim.x) {
    const std::int64_t first_channel = (group % p.num_groups) * p.channels_per_group;
    const std::int64_t base = (group / p.num_groups) * p.sample_stride + first_channel * p.channel_stride;
    const T* x = static_cast<const T*>(p.x) + base;
    T* y = static_cast<T*>(p.y) + base;
    const bool channels_last = p.channel_stride == 1 && p.row_stride != 1;
    auto locate = [&](std::int64_t i, std::int64_t* channel) {
      const std::int64_t inner = channels_last ? p.channels_per_group : p.spatial;
      const std::int64_t outer = i / inner;
      *channel = channels_last ? i - outer * inner : outer;
      const std::int64_t position = channels_last ? outer : i - outer * inner;
      return *channel * p.channel_stride + position * p.row_stride;
    };
    std::int64_t channel = 0;
    float sum = 0.0F;
    for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += to_float(x[locate(i, &channel)]);
    const float mean = block_sum(sum, scratch) / static_cast<float>(n);
    float squares = 0.0F;
    for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const float d = to_float(x[locate(i, &channel)]) - mean;
      squares += d * d;
    }
    const float rstd = 1.0F / sqrtf(block_sum(squares, scratch) / static_cast<float>(n) + p.epsilon);
    for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const std::int64_t offset = locate(i, &channel);
      const float a = to_float(static_cast<const T*>(p.scale)[first_channel + channel]) * rstd;
      const float b = to_float(static_cast<const T*>(p.bias)[first_channel + channel]);
      y[offset] = from_float<T>(activate<kActivation, T>((to_float(x[offset]) - mean) * a + b, p.alpha));
    }
  }
}

template <typename T, Activation kActivation>
cudaError_t launch(const Params& params, cudaStream_t stream) {
  const std::int64_t blocks = params.groups < 65535 ? params.groups : 65535;
  group_norm_simple<T, kActivation><<<static_cast<unsigned>(blocks), 512, kMaxWarps * sizeof(float), stream>>>(params);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_activation(Activation activation, const Params& params, cudaStream_t stream) {
  switch (activation) {
    case Activation::kNone:
      return launch<T, Activation::kNone>(params, stream);
    case Activation::kRelu:
      return launch<T, Activation::kRelu>(params, stream);
    case Activation::kSilu:
      return launch<T, Activation::kSilu>(params, stream);
    case Activation::kHardSwish:
      return launch<T, Activation::kHardSwish>(params, stream);
    case Activation::kLeakyRelu:
      return launch<T, Activation::kLeakyRelu>(params, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace
}  // namespace cuda

CudaError current_device_limits(DeviceLimits* limits) {
  constexpr int kMaxDevices = 64;
  static std::mutex mutex;
  static std::array<DeviceLimits, kMaxDevices> cache;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (device < 0 || device >= kMaxDevices) return cudaErrorInvalidDevice;
  const std::lock_guard<std::mutex> lock(mutex);
  DeviceLimits& entry = cache[static_cast<std::size_t>(device)];
  if (entry.compute_capability == 0) {
    int major = 0;
    int minor = 0;
    int multiprocessors = 0;
    int shared = 0;
    int l2 = 0;
    const std::array<std::pair<int*, cudaDeviceAttr>, 5> queries = {{{&major, cudaDevAttrComputeCapabilityMajor},
                                                                     {&minor, cudaDevAttrComputeCapabilityMinor},
                                                                     {&multiprocessors, cudaDevAttrMultiProcessorCount},
                                                                     {&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin},
                                                                     {&l2, cudaDevAttrL2CacheSize}}};
    for (const auto& [value, attribute] : queries) {
      if (const cudaError_t error = cudaDeviceGetAttribute(value, attribute, device); error != cudaSuccess)
        return error;
    }
    entry.multiprocessors = multiprocessors;
    entry.shared_memory_per_block_optin = shared;
    entry.l2_bytes = l2;
    entry.compute_capability = major * 10 + minor;
  }
  *limits = entry;
  return cudaSuccess;
}

std::size_t group_norm_cuda_workspace_bytes(const GroupNormProblem&, const DeviceLimits&) { return 0; }

CudaError group_norm_cuda(const GroupNormProblem& problem, const GroupNormBuffers& buffers, const DeviceLimits&, void*,
                          void* stream) {
  if (problem.batch == 0 || problem.channels == 0 || problem.spatial == 0) return cudaSuccess;
  const bool last = problem.layout == Layout::kChannelsLast;
  cuda::Params params{};
  params.x = buffers.x;
  params.scale = buffers.scale;
  params.bias = buffers.bias;
  params.y = buffers.y;
  params.groups = problem.batch * problem.num_groups;
  params.num_groups = problem.num_groups;
  params.channels_per_group = problem.channels / problem.num_groups;
  params.spatial = problem.spatial;
  params.row_stride = last ? problem.channels : 1;
  params.channel_stride = last ? 1 : problem.spatial;
  params.sample_stride = problem.channels * problem.spatial;
  params.epsilon = static_cast<float>(problem.epsilon);
  params.alpha = problem.alpha;
  const auto handle = static_cast<cudaStream_t>(stream);
  switch (problem.dtype) {
    case DType::kFloat32:
      return cuda::launch_activation<float>(problem.activation, params, handle);
    case DType::kFloat16:
      return cuda::launch_activation<cuda::Float16>(problem.activation, params, handle);
    case DType::kBFloat16:
      return cuda::launch_activation<cuda::BFloat16>(problem.activation, params, handle);
    case DType::kFloat64:
      break;
  }
  return cudaErrorInvalidValue;
}

const char* cuda_error_string(CudaError error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace gn
