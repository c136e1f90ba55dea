// CPU entry point. Threads come from the caller, so that the kernel starts none of its own.
#pragma once

#include "gn/group_norm.h"

namespace gn {

// Runs body(state, i) for every i in [0, count), in any order, possibly at once; returns when all are done.
struct Parallel {
  void (*run)(void* pool, std::size_t count, void (*body)(void* state, std::size_t index), void* state) = nullptr;
  void* pool = nullptr;
};

// Bytes of host scratch memory: O(batch * num_groups), never O(tensor). May be 0.
std::size_t group_norm_cpu_workspace_bytes(const GroupNormProblem& problem);

// Cannot fail once the problem is valid: sizes were checked by the caller. Statistics are accumulated in an order that
// depends on the group's own size and layout only, so the bits do not depend on batch size, position or thread count.
void group_norm_cpu(const GroupNormProblem& problem, const GroupNormBuffers& buffers, void* workspace,
                    const Parallel& parallel);

// Name of the instruction set chosen at run time: "avx512", "avx2", "baseline", "neon".
const char* group_norm_cpu_isa();

}  // namespace gn
