// The kernels for one instruction set. CMake compiles this file once per set, each with its own GN_ISA and flags.

#include "cpu/kernels.h"

#include <cmath>
#include <limits>

#include "cpu/channels_first.h"
#include "cpu/channels_last.h"

namespace gn::GN_ISA {
namespace {

// A result that no cache can hold is written past it: the lines need not be read first. Not in place, where they are
// in the cache already.
constexpr std::int64_t kStreamBytes = 32 << 20;

template <typename T>
bool streams(const GroupNormProblem& problem, const GroupNormBuffers& buffers) {
  const std::int64_t bytes = problem.batch * problem.channels * problem.spatial * static_cast<std::int64_t>(sizeof(T));
  return bytes >= kStreamBytes && buffers.x != buffers.y &&
         reinterpret_cast<std::uintptr_t>(buffers.y) % sizeof(T) == 0;
}

template <typename T>
RowWriter<T> writer_of(const GroupNormProblem& problem, bool stream) {
  using W = Wide<T>;
  // A NaN may have bits that the rounding to bfloat16 would carry into its exponent.
  const W alpha = std::isnan(problem.alpha) ? std::numeric_limits<W>::quiet_NaN() : static_cast<W>(problem.alpha);
  switch (problem.activation) {
    case Activation::kNone:
      break;
    case Activation::kRelu:
      return row_writer<T, Activation::kRelu>(alpha, stream);
    case Activation::kSilu:
      return row_writer<T, Activation::kSilu>(alpha, stream);
    case Activation::kHardSwish:
      return row_writer<T, Activation::kHardSwish>(alpha, stream);
    case Activation::kLeakyRelu:
      return row_writer<T, Activation::kLeakyRelu>(alpha, stream);
  }
  return row_writer<T, Activation::kNone>(alpha, stream);
}

template <typename T>
void run_type(const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace,
              const Parallel& parallel) {
  const RowWriter<T> writer = writer_of<T>(problem, streams<T>(problem, buffers));
  if (problem.layout == Layout::kChannelsLast) {
    ChannelsLast<T>(problem, buffers).run(workspace, parallel, writer);
  } else {
    ChannelsFirst<T>(problem, buffers).run(workspace, parallel, writer);
  }
}

}  // namespace

std::size_t workspace_bytes(const GroupNormProblem& problem) {
  if (problem.layout == Layout::kChannelsLast) return ChannelsLastPlan(problem).workspace_bytes;
  return ChannelsFirstPlan(problem).workspace_bytes();
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
