// How work is cut into tasks for the caller's threads. Results never depend on it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gn/group_norm_cpu.h"

namespace gn::GN_ISA {

inline constexpr std::int64_t kTaskElements = 16384;  // a few microseconds: handing out a task is small beside it
inline constexpr std::int64_t kCombineElements = 64;  // combining two moments takes as long as so many elements

// body(i) for every i in [0, count), an item being about `item_elements` elements of work; small items are bundled.
template <typename Body>
inline void for_each(const Parallel& parallel, std::int64_t count, std::int64_t item_elements, const Body& body) {
  struct State {
    const Body& body;
    std::int64_t count;
    std::int64_t per_task;
  };
  State state{body, count, std::max<std::int64_t>(1, kTaskElements / std::max<std::int64_t>(1, item_elements))};
  const std::int64_t tasks = (count + state.per_task - 1) / state.per_task;
  const auto run_task = [](void* opaque, std::size_t index) {
    const auto& s = *static_cast<const State*>(opaque);
    const std::int64_t begin = static_cast<std::int64_t>(index) * s.per_task;
    const std::int64_t end = std::min(s.count, begin + s.per_task);
    for (std::int64_t i = begin; i < end; ++i) s.body(i);
  };
  if (tasks > 1) {
    parallel.run(parallel.pool, static_cast<std::size_t>(tasks), run_task, &state);
  } else if (tasks == 1) {
    run_task(&state, 0);
  }
}

}  // namespace gn::GN_ISA
