#include "launch_group_norm.cuh"

namespace gn::cuda {

CudaError launch_group_norm_float16(const GroupNormProblem& problem, const GroupNormBuffers& buffers,
                                    const LaunchPlan& plan, void* workspace, void* stream) {
  return launch_group_norm<Float16>(problem, buffers, plan, workspace, stream);
}

}  // namespace gn::cuda
