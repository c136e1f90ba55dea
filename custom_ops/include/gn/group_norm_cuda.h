// CUDA entry points. The stream is an opaque handle so that callers need no CUDA header.
#pragma once

#include "gn/group_norm.h"

namespace gn {

// 0 is success; any other value is a cudaError_t, to be turned into words by `cuda_error_string`.
using CudaError = int;

// Limits of the current device that the launch plan depends on (the batch size never does).
struct DeviceLimits {
  int compute_capability = 0;  // 90 for sm_90
  int multiprocessors = 0;
  std::int64_t shared_memory_per_block_optin = 0;  // bytes
  std::int64_t l2_bytes = 0;
  // 1 where the device, or the code built for it, has no thread-block clusters; 16 where the device grants more than 8.
  int max_cluster_blocks = 1;
};

// Limits of the device that is current on the calling thread; cached per device.
CudaError current_device_limits(DeviceLimits* limits);

// Bytes of device scratch memory that `group_norm_cuda` needs for this problem on this device, whatever the pointers'
// alignment; 0 in every one-read regime. The scratch memory must be aligned to 16 bytes.
std::size_t group_norm_cuda_workspace_bytes(const GroupNormProblem& problem, const DeviceLimits& limits);

// Enqueues the whole operation on `stream` (a cudaStream_t). No synchronisation, no allocation, safe in graph capture.
CudaError group_norm_cuda(const GroupNormProblem& problem, const GroupNormBuffers& buffers, const DeviceLimits& limits,
                          void* workspace, void* stream);

const char* cuda_error_string(CudaError error);

}  // namespace gn
