// What every build of kernels.cc exports, one namespace per instruction set, and what they need of the process.
#pragma once

#include "gn/group_norm_cpu.h"

#define GN_DECLARE_KERNELS(isa)                                                               \
  namespace gn::isa {                                                                         \
  std::size_t workspace_bytes(const GroupNormProblem& problem);                               \
  void run(const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace, \
           const Parallel& parallel);                                                         \
  }

GN_DECLARE_KERNELS(baseline)
GN_DECLARE_KERNELS(avx2)
GN_DECLARE_KERNELS(avx512)
#undef GN_DECLARE_KERNELS

namespace gn {

struct Isa {
  const char* name;
  void (*run)(const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace,
              const Parallel& parallel);
};

struct IsaList {
  Isa isas[3];
  int count = 0;
};

// What this library has kernels for and this processor runs, the best one first.
const IsaList& supported_isas();

// With the kernels of one set, for a problem that is not empty.
void run_kernels(const Isa& isa, const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace,
                 const Parallel& parallel);

// Threads of this machine: how work is cut may depend on it, results may not.
std::int64_t hardware_threads();

}  // namespace gn
