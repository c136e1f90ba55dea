// What every build of kernels.cc exports, one namespace per instruction set.
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
