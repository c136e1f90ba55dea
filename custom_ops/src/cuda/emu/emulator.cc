#include "emu/emulator.h"

#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "emu/fiber.h"

namespace gn::emulation {
namespace {

constexpr int kLanes = 32;

// Counts arrivals; a generation ends with the last of them.
struct Barrier {
  int expected = 0;
  int arrived = 0;
  std::uint64_t generation = 0;

  std::uint64_t arrive() {
    const std::uint64_t mine = generation;
    if (++arrived == expected) {
      arrived = 0;
      ++generation;
    }
    return mine;
  }
};

struct Warp {
  Barrier barrier;
  float values[2][kLanes] = {};  // two exchanges may overlap: one lane reads the last, another writes the next
};

struct AlignedDelete {
  void operator()(unsigned char* memory) const { ::operator delete[](memory, std::align_val_t{128}); }
};

struct Block {
  Index index;
  Barrier barrier;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[], AlignedDelete> shared;
  int running = 0;
};

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
};

struct Thread {
  Index index;
  Block* block = nullptr;
  std::unique_ptr<Fiber> fiber;
  std::deque<std::vector<Copy>> batches;
  std::vector<Copy> open_batch;
  std::uint64_t cluster_generation = 0;
  bool arrived_at_cluster = false;  // and has not waited yet
  bool previous_ended = false;      // this thread has waited for the launch before
  bool peers_run = false;           // this thread has waited for a cluster barrier
  std::exception_ptr error;
};

struct Machine {
  Grid grid;
  Index block_dim;
  Index grid_dim;
  Barrier cluster_barrier;
  std::vector<Block> blocks;  // of the running cluster
  Thread* current = nullptr;
  bool progress = false;
};

thread_local Machine* machine = nullptr;
thread_local bool backwards_now = false;

Thread& current() { return *machine->current; }

void wait_while(const Barrier& barrier, std::uint64_t generation) {
  machine->progress = true;
  while (barrier.generation == generation) current().fiber->suspend();
  machine->progress = true;
}

void require(bool condition, const char* what) {
  if (!condition) throw std::logic_error(std::string("emulated kernel: ") + what);
}

void run_cluster(std::int64_t first_block, const std::function<void()>& body) {
  const Grid& grid = machine->grid;
  machine->cluster_barrier = {grid.cluster * grid.threads, 0, 0};
  machine->blocks.clear();
  machine->blocks.resize(static_cast<std::size_t>(grid.cluster));
  std::vector<Thread> threads(static_cast<std::size_t>(grid.cluster) * static_cast<std::size_t>(grid.threads));
  for (int b = 0; b < grid.cluster; ++b) {
    Block& block = machine->blocks[static_cast<std::size_t>(b)];
    block.index.x = static_cast<unsigned>(first_block + b);
    block.barrier.expected = grid.threads;
    block.warps.resize(static_cast<std::size_t>(grid.threads / kLanes));
    for (Warp& warp : block.warps) warp.barrier.expected = kLanes;
    block.running = grid.threads;
    block.shared.reset(static_cast<unsigned char*>(::operator new[](grid.shared_bytes, std::align_val_t{128})));
    std::memset(block.shared.get(), 0xff, grid.shared_bytes);
    for (int t = 0; t < grid.threads; ++t) {
      Thread& thread =
          threads[static_cast<std::size_t>(b) * static_cast<std::size_t>(grid.threads) + static_cast<std::size_t>(t)];
      thread.index.x = static_cast<unsigned>(t);
      thread.block = &block;
      thread.fiber = std::make_unique<Fiber>([&body, &thread] {
        try {
          body();
        } catch (...) {
          thread.error = std::current_exception();
        }
        --thread.block->running;
      });
    }
  }
  std::size_t alive = threads.size();
  while (alive > 0) {
    machine->progress = false;
    for (std::size_t i = 0; i < threads.size(); ++i) {
      Thread& thread = threads[grid.backwards ? threads.size() - 1 - i : i];
      if (thread.fiber->finished()) continue;
      machine->current = &thread;
      thread.fiber->resume();
      if (thread.error) std::rethrow_exception(thread.error);
      if (thread.fiber->finished()) {
        machine->progress = true;
        --alive;
      }
    }
    require(machine->progress, "its threads wait for one another: a barrier or shuffle that not all of them reach");
  }
}

}  // namespace

void run(const Grid& grid, const std::function<void()>& body) {
  require(grid.blocks > 0 && grid.blocks % grid.cluster == 0, "the grid is not a whole number of clusters");
  require(grid.threads > 0 && grid.threads <= 1024 && grid.threads % kLanes == 0, "the block is not a few whole warps");
  Machine here;
  here.grid = grid;
  here.block_dim.x = static_cast<unsigned>(grid.threads);
  here.grid_dim.x = static_cast<unsigned>(grid.blocks);
  machine = &here;
  try {
    for (std::int64_t block = 0; block < grid.blocks; block += grid.cluster) run_cluster(block, body);
  } catch (...) {
    machine = nullptr;
    throw;
  }
  machine = nullptr;
}

bool backwards() { return backwards_now; }
void set_backwards(bool value) { backwards_now = value; }

const Index& thread_index() { return current().index; }
const Index& block_index() { return current().block->index; }
const Index& block_dim() { return machine->block_dim; }
const Index& grid_dim() { return machine->grid_dim; }
unsigned char* shared_region() { return current().block->shared.get(); }

void wait_for_block() {
  Barrier& barrier = current().block->barrier;
  wait_while(barrier, barrier.arrive());
}

float exchange_in_warp(float value, int lane_mask) {
  const auto lane = static_cast<int>(current().index.x) % kLanes;
  Warp& warp = current().block->warps[current().index.x / kLanes];
  float* values = warp.values[warp.barrier.generation % 2];
  values[lane] = value;
  wait_while(warp.barrier, warp.barrier.arrive());
  return values[lane ^ lane_mask];
}

void wait_for_previous() { current().previous_ended = true; }

void need_previous() {
  require(!machine->grid.overlaps || current().previous_ended, "it does not wait for the launch before");
}

void copy_later(void* to, const void* from, std::size_t bytes) {
  require(reinterpret_cast<std::uintptr_t>(to) % bytes == 0 && reinterpret_cast<std::uintptr_t>(from) % bytes == 0,
          "an asynchronous copy is not aligned");
  current().open_batch.push_back({to, from, bytes});
}

void end_of_copies() {
  current().batches.push_back(std::move(current().open_batch));
  current().open_batch.clear();
}

void wait_for_copies(std::size_t pending_batches) {
  auto& batches = current().batches;
  while (batches.size() > pending_batches) {
    for (const Copy& copy : batches.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    batches.pop_front();
  }
}

void arrive_at_cluster() {
  require(!current().arrived_at_cluster, "it arrives twice at a cluster barrier without waiting");
  current().arrived_at_cluster = true;
  current().cluster_generation = machine->cluster_barrier.arrive();
}

void wait_for_cluster() {
  require(current().arrived_at_cluster, "it waits for a cluster barrier at which it did not arrive");
  wait_while(machine->cluster_barrier, current().cluster_generation);
  current().arrived_at_cluster = false;
  current().peers_run = true;
}

void store_to_peer(void* shared, int rank, const void* value, std::size_t bytes) {
  require(current().peers_run, "a store to a block that may not have started");
  require(rank >= 0 && rank < machine->grid.cluster, "a store to a block outside the cluster");
  Block& peer = machine->blocks[static_cast<std::size_t>(rank)];
  require(peer.running == machine->grid.threads, "a store to a block that may have ended");
  const auto offset = static_cast<std::size_t>(static_cast<unsigned char*>(shared) - shared_region());
  require(offset + bytes <= machine->grid.shared_bytes, "a store outside the peer's shared memory");
  std::memcpy(peer.shared.get() + offset, value, bytes);
}

}  // namespace gn::emulation
