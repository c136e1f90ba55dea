// Chooses the instruction set once per process and keeps small problems on the caller's thread.

#include "gn/group_norm_cpu.h"

#include "cpu/kernels.h"

namespace gn {
namespace {

using Run = void (*)(const GroupNormProblem&, const GroupNormBuffers&, void*, const Parallel&);

struct Isa {
  const char* name;
  Run run;
};

Isa choose() {
#if defined(GN_X86_KERNELS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return {"avx512", avx512::run};
  }
  // Every processor with AVX2 has F16C and FMA.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {"avx2", avx2::run};
#endif
#if defined(__aarch64__)
  return {"neon", baseline::run};
#else
  return {"baseline", baseline::run};
#endif
}

const Isa& isa() {
  static const Isa chosen = choose();
  return chosen;
}

constexpr std::int64_t kInlineElements = 8192;  // below this, waking another thread takes longer than the work

const Parallel kInline = {[](void*, std::size_t count, void (*body)(void*, std::size_t), void* state) {
                            for (std::size_t i = 0; i < count; ++i) body(state, i);
                          },
                          nullptr};

}  // namespace

std::size_t group_norm_cpu_workspace_bytes(const GroupNormProblem& problem) {
  return problem.batch * problem.channels * problem.spatial == 0 ? 0 : baseline::workspace_bytes(problem);
}

void group_norm_cpu(const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace,
                    const Parallel& parallel) {
  const std::int64_t elements = problem.batch * problem.channels * problem.spatial;
  if (elements == 0) return;
  isa().run(problem, buffers, workspace, elements <= kInlineElements ? kInline : parallel);
}

const char* group_norm_cpu_isa() { return isa().name; }

}  // namespace gn
