// Runs a grid on the host, one emulated thread at a time, so that kernels can be tested where there is no GPU.
//
// The blocks of a cluster run together, clusters one after another. A thread runs until it waits for others; so a
// thread that reads what another has yet to write finds shared memory's poison (every byte 0xff: NaN), not a lucky
// value. What hardware leaves undefined is an error here: threads that disagree about a barrier, an address outside the
// block's shared memory, a store to a peer that may not run yet or any more, partial results read or anything written
// while the launch before may still run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "gn/group_norm_cuda.h"

namespace gn::emulation {

struct Index {
  unsigned x = 0;
};

struct Grid {
  std::int64_t blocks = 0;
  int threads = 0;
  int cluster = 1;  // blocks that run together
  std::size_t shared_bytes = 0;
  bool overlaps = false;   // on hardware the launch before may still run
  bool backwards = false;  // the order in which threads get their turn; no result may depend on it
};

// Calls `body` once for every thread of the grid. Throws std::logic_error for what hardware leaves undefined.
void run(const Grid& grid, const std::function<void()>& body);

// The order that launches use: false in production-like runs, set by tests.
bool backwards();
void set_backwards(bool value);

// What `current_device_limits` answers from now on: limits, and 0 or a CUDA error. Set by tests.
void set_device(const DeviceLimits& limits, int error = 0);

// What a thread sees, for the emulated intrinsics. Valid inside `run` only.
const Index& thread_index();
const Index& block_index();
const Index& block_dim();
const Index& grid_dim();
unsigned char* shared_region();
void wait_for_block();
float exchange_in_warp(float value, int lane_mask);
void wait_for_previous();
void need_previous();  // an error before wait_for_previous, where launches overlap
void copy_later(void* to, const void* from, std::size_t bytes);
void end_of_copies();
void wait_for_copies(std::size_t pending_batches);
void arrive_at_cluster();
void wait_for_cluster();
void store_to_peer(void* shared, int rank, const void* value, std::size_t bytes);

}  // namespace gn::emulation
