// What the launch plan needs to know about a device, asked once.
#include <cuda_runtime.h>

#include <array>
#include <mutex>
#include <utility>

#include "gn/group_norm_cuda.h"

namespace gn {
namespace {

// Never launched: stands for every kernel of this library when the driver is asked what it would grant.
__global__ void probe() {}

// Most blocks of a cluster, 1 where the code that the driver chose has no cluster instructions: a build for older
// devices runs on newer ones from its PTX, and that was compiled without them.
cudaError_t max_cluster_blocks(int shared_bytes, int* blocks) {
  constexpr int kPortable = 8;
  constexpr int kLargest = 16;
  cudaFuncAttributes attributes{};
  if (const cudaError_t error = cudaFuncGetAttributes(&attributes, probe); error != cudaSuccess) return error;
  *blocks = 1;
  if (attributes.ptxVersion < 90) return cudaSuccess;
  *blocks = kPortable;
  if (cudaFuncSetAttribute(probe, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) == cudaSuccess &&
      cudaFuncSetAttribute(probe, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess) {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {kLargest, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(kLargest);
    config.blockDim = dim3(1024);
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.attrs = &cluster;
    config.numAttrs = 1;
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, probe, &config) == cudaSuccess && clusters > 0) *blocks = kLargest;
  }
  static_cast<void>(cudaGetLastError());  // a refusal of the larger cluster is an answer, not an error
  return cudaSuccess;
}

cudaError_t query(int device, DeviceLimits* limits) {
  int major = 0;
  int minor = 0;
  int multiprocessors = 0;
  int shared = 0;
  int l2 = 0;
  const std::array<std::pair<int*, cudaDeviceAttr>, 5> queries = {{
      {&major, cudaDevAttrComputeCapabilityMajor},
      {&minor, cudaDevAttrComputeCapabilityMinor},
      {&multiprocessors, cudaDevAttrMultiProcessorCount},
      {&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin},
      {&l2, cudaDevAttrL2CacheSize},
  }};
  for (const auto& [value, attribute] : queries) {
    if (const cudaError_t error = cudaDeviceGetAttribute(value, attribute, device); error != cudaSuccess) return error;
  }
  limits->compute_capability = major * 10 + minor;
  limits->multiprocessors = multiprocessors;
  limits->shared_memory_per_block_optin = shared;
  limits->l2_bytes = l2;
  return max_cluster_blocks(shared, &limits->max_cluster_blocks);
}

}  // namespace

CudaError current_device_limits(DeviceLimits* limits) {
  constexpr int kMaxDevices = 64;
  static std::mutex mutex;
  static std::array<DeviceLimits, kMaxDevices> known;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (device < 0 || device >= kMaxDevices) return cudaErrorInvalidDevice;
  const std::lock_guard<std::mutex> lock(mutex);
  DeviceLimits& entry = known[static_cast<std::size_t>(device)];
  if (entry.compute_capability == 0) {
    DeviceLimits fresh;
    if (const cudaError_t error = query(device, &fresh); error != cudaSuccess) return error;
    entry = fresh;
  }
  *limits = entry;
  return cudaSuccess;
}

const char* cuda_error_string(CudaError error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace gn
