// The kernels for one instruction set. CMake compiles this file once per set, each with its own GN_ISA and flags.

#include "cpu/kernels.h"

#include "cpu/channels_first.h"
#include "cpu/channels_last.h"

namespace gn::GN_ISA {
namespace {

template <typename T, Activation kActivation>
void run_layout(const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace,
                const Parallel& parallel) {
  auto* chunk_results = static_cast<Moments*>(workspace);
  if (problem.layout == Layout::kChannelsLast) {
    ChannelsLast<T, kActivation>(problem, buffers, chunk_results).run(parallel);
  } else {
    ChannelsFirst<T, kActivation>(problem, buffers, chunk_results).run(parallel);
  }
}

template <typename T>
void run_type(const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace,
              const Parallel& parallel) {
  switch (problem.activation) {
    case Activation::kNone:
      return run_layout<T, Activation::kNone>(problem, buffers, workspace, parallel);
    case Activation::kRelu:
      return run_layout<T, Activation::kRelu>(problem, buffers, workspace, parallel);
    case Activation::kSilu:
      return run_layout<T, Activation::kSilu>(problem, buffers, workspace, parallel);
    case Activation::kHardSwish:
      return run_layout<T, Activation::kHardSwish>(problem, buffers, workspace, parallel);
    case Activation::kLeakyRelu:
      return run_layout<T, Activation::kLeakyRelu>(problem, buffers, workspace, parallel);
  }
}

std::int64_t chunk_count(const GroupNormProblem& problem) {
  if (problem.layout == Layout::kChannelsLast) {
    const std::int64_t rows = ChannelsLast<float, Activation::kNone>::rows_per_chunk(problem);
    return problem.batch * problem.num_groups * ((problem.spatial + rows - 1) / rows);
  }
  const std::int64_t size = problem.channels / problem.num_groups * problem.spatial;
  return problem.batch * problem.num_groups * ((size + kChunkElements - 1) / kChunkElements);
}

}  // namespace

std::size_t workspace_bytes(const GroupNormProblem& problem) {
  return static_cast<std::size_t>(chunk_count(problem)) * sizeof(Moments);
}

void run(const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace, const Parallel& parallel) {
  switch (problem.dtype) {
    case DType::kFloat32:
      return run_type<float>(problem, buffers, workspace, parallel);
    case DType::kFloat16:
      return run_type<Half>(problem, buffers, workspace, parallel);
    case DType::kBFloat16:
      return run_type<BFloat16>(problem, buffers, workspace, parallel);
    case DType::kFloat64:
      return run_type<double>(problem, buffers, workspace, parallel);
  }
}

}  // namespace gn::GN_ISA
