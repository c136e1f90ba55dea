// Chooses the instruction set once per process and keeps small problems on the caller's thread.

#include "gn/group_norm_cpu.h"

#include <algorithm>
#include <thread>

#include "cpu/kernels.h"

namespace gn {
namespace {

IsaList detect() {
  IsaList list;
#if defined(GN_X86_KERNELS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    list.isas[list.count++] = {"avx512", avx512::run};
  }
  // Every processor with AVX2 has F16C.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.isas[list.count++] = {"avx2", avx2::run};
#endif
#if defined(__aarch64__)
  list.isas[list.count++] = {"neon", baseline::run};
#else
  list.isas[list.count++] = {"baseline", baseline::run};
#endif
  return list;
}

constexpr std::int64_t kInlineElements = 16384;  // below this, waking another thread takes longer than the work

const Parallel kInline = {[](void*, std::size_t count, void (*body)(void*, std::size_t), void* state) {
                            for (std::size_t i = 0; i < count; ++i) body(state, i);
                          },
                          nullptr};

// With one element per channel the layouts are the same, and a group is contiguous.
GroupNormProblem simplified(const GroupNormProblem& problem) {
  GroupNormProblem out = problem;
  if (problem.spatial == 1) out.layout = Layout::kChannelsFirst;
  return out;
}

}  // namespace

const IsaList& supported_isas() {
  static const IsaList list = detect();
  return list;
}

std::int64_t hardware_threads() {
  static const std::int64_t threads = std::max(1U, std::thread::hardware_concurrency());
  return threads;
}

std::size_t group_norm_cpu_workspace_bytes(const GroupNormProblem& problem) {
  if (problem.batch * problem.channels * problem.spatial == 0) return 0;
  return baseline::workspace_bytes(simplified(problem));
}

void run_kernels(const Isa& isa, const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace,
                 const Parallel& parallel) {
  isa.run(simplified(problem), buffers, workspace, parallel);
}

void group_norm_cpu(const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace,
                    const Parallel& parallel) {
  const std::int64_t elements = problem.batch * problem.channels * problem.spatial;
  if (elements == 0) return;
  run_kernels(supported_isas().isas[0], problem, buffers, workspace, elements <= kInlineElements ? kInline : parallel);
}

const char* group_norm_cpu_isa() { return supported_isas().isas[0].name; }

}  // namespace gn
