// The kernels without ONNX Runtime, for measurements and checks from Python through ctypes.
#include <type_traits>

#include "device.cuh"
#include "launch.cuh"
#include "plan.h"

#define GN_EXPORT extern "C" __attribute__((visibility("default")))

namespace gn::cuda {
namespace {

// ctypes lays the same fields out by the same rules.
static_assert(std::is_standard_layout_v<GroupNormProblem> && sizeof(GroupNormProblem) == 56);
static_assert(std::is_standard_layout_v<DeviceLimits> && sizeof(DeviceLimits) == 32);

struct Nothing {};

// What a launch costs by itself.
__global__ void empty_kernel(const Nothing /*nothing*/) {}

}  // namespace
}  // namespace gn::cuda

GN_EXPORT int gn_onnx_cuda_limits(gn::DeviceLimits* limits) { return gn::current_device_limits(limits); }

GN_EXPORT const char* gn_onnx_cuda_error(int error) { return gn::cuda_error_string(error); }

GN_EXPORT int gn_onnx_cuda_empty(void* stream) {
  return gn::cuda::launch<gn::cuda::empty_kernel>(gn::cuda::Nothing{}, {1, 32}, stream);
}

GN_EXPORT std::int64_t gn_onnx_cuda_workspace_bytes(const gn::GroupNormProblem* problem,
                                                    const gn::DeviceLimits* limits) {
  return static_cast<std::int64_t>(gn::group_norm_cuda_workspace_bytes(*problem, *limits));
}

// values: regime, vector elements, vectors per thread, threads, parts, blocks, shared bytes, workspace bytes.
GN_EXPORT void gn_onnx_cuda_plan(const gn::GroupNormProblem* problem, const gn::DeviceLimits* limits, int aligned16,
                                 std::int64_t values[8]) {
  const gn::cuda::LaunchPlan plan = gn::cuda::make_plan(*problem, *limits, aligned16 != 0);
  values[0] = static_cast<int>(plan.regime);
  values[1] = plan.vector_elements;
  values[2] = plan.vectors_per_thread;
  values[3] = plan.threads;
  values[4] = plan.parts;
  values[5] = plan.grid_blocks;
  values[6] = plan.shared_bytes;
  values[7] = plan.workspace_bytes;
}

GN_EXPORT int gn_onnx_cuda_group_norm(const gn::GroupNormProblem* problem, const gn::DeviceLimits* limits,
                                      const void* x, const void* scale, const void* bias, void* y, void* workspace,
                                      void* stream) {
  return gn::group_norm_cuda(*problem, {x, scale, bias, y}, *limits, workspace, stream);
}
