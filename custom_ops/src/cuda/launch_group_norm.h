// One function per element type, each in its own source file.
#pragma once

#include "plan.h"

namespace gn::cuda {

CudaError launch_group_norm_float32(const GroupNormProblem& problem, const GroupNormBuffers& buffers,
                                    const LaunchPlan& plan, void* workspace, void* stream);
CudaError launch_group_norm_float16(const GroupNormProblem& problem, const GroupNormBuffers& buffers,
                                    const LaunchPlan& plan, void* workspace, void* stream);
CudaError launch_group_norm_bfloat16(const GroupNormProblem& problem, const GroupNormBuffers& buffers,
                                     const LaunchPlan& plan, void* workspace, void* stream);

}  // namespace gn::cuda
