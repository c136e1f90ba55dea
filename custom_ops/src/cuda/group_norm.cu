// The public entry points: a plan for the problem, and the kernels of its element type.
#include <algorithm>

#include "launch_group_norm.h"

namespace gn {
namespace {

bool aligned16(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

constexpr CudaError kInvalidValue = 1;  // cudaErrorInvalidValue

}  // namespace

std::size_t group_norm_cuda_workspace_bytes(const GroupNormProblem& problem, const DeviceLimits& limits) {
  // The pointers are not known yet; only for few shapes does the number of splits depend on them.
  return static_cast<std::size_t>(std::max(cuda::make_plan(problem, limits, true).workspace_bytes,
                                           cuda::make_plan(problem, limits, false).workspace_bytes));
}

CudaError group_norm_cuda(const GroupNormProblem& problem, const GroupNormBuffers& buffers, const DeviceLimits& limits,
                          void* workspace, void* stream) {
  const cuda::LaunchPlan plan = cuda::make_plan(problem, limits, aligned16(buffers.x) && aligned16(buffers.y));
  if (plan.regime == cuda::Regime::kNothing) return 0;
  if (plan.workspace_bytes > 0 && (workspace == nullptr || !aligned16(workspace))) return kInvalidValue;
  switch (problem.dtype) {
    case DType::kFloat32:
      return cuda::launch_group_norm_float32(problem, buffers, plan, workspace, stream);
    case DType::kFloat16:
      return cuda::launch_group_norm_float16(problem, buffers, plan, workspace, stream);
    case DType::kBFloat16:
      return cuda::launch_group_norm_bfloat16(problem, buffers, plan, workspace, stream);
    case DType::kFloat64:
      break;
  }
  return kInvalidValue;
}

}  // namespace gn
