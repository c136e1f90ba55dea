// Moments of every block of a cluster to every block of it, through distributed shared memory.
//
// Each block writes into its peers (no block reads a peer's memory), so after the one barrier a block needs nothing
// from its peers any more and may end.
#pragma once

#include "moments.cuh"

namespace gn::cuda {

class ClusterExchange {
 public:
  // `area` [2][blocks][groups] is shared memory at the same place in every block. `blocks` is the cluster's size.
  GN_DEVICE ClusterExchange(void* area, int blocks, int groups)
      : slots(static_cast<Moments*>(area)), blocks(blocks), groups(groups) {
    if (blocks > 1) cluster_arrive();  // peers may write here as soon as this block has started
  }

  // Called by all threads; `mine(group)` is this block's moments of a group. Returns [blocks][groups], in the order of
  // the blocks. Two calls alternate between two areas, so that the next call may write while this one's are read.
  template <typename Mine>
  GN_DEVICE const Moments* operator()(int rank, Mine mine) {
    if (!joined) cluster_wait();
    joined = true;
    Moments* received = slots + turn * blocks * groups;
    turn ^= 1;
    for (int i = static_cast<int>(threadIdx.x); i < blocks * groups; i += static_cast<int>(blockDim.x)) {
      const int group = i % groups;
      cluster_store(received + rank * groups + group, i / groups, bit_cast<Bits128>(mine(group)));
    }
    cluster_arrive();
    cluster_wait();
    return received;
  }

 private:
  Moments* slots;
  int blocks;
  int groups;
  int turn = 0;
  bool joined = false;
};

}  // namespace gn::cuda
