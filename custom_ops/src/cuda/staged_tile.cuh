// A contiguous run of elements that does not begin at a multiple of 16 bytes, in shared memory.
//
// The accesses to global memory are 16 bytes wide all the same, with single elements at the head and the tail; shared
// memory keeps the run's own misalignment. The sums take the elements one by one in the order of their index, so they
// do not depend on where the run happens to begin: the groups of one tensor begin differently when a group's size is
// odd.
#pragma once

#include "tile.cuh"

namespace gn::cuda {

// Elements from `address` to the next multiple of 16 bytes, at most `count`.
template <typename T>
GN_DEVICE int elements_to_alignment(const T* address, int count) {
  const auto past = static_cast<int>(reinterpret_cast<std::uintptr_t>(address) % 16);
  const int head = (16 - past) % 16 / static_cast<int>(sizeof(T));
  return head < count ? head : count;
}

template <typename T>
class StagedTile {
 public:
  using Element = T;
  static constexpr int kVector = 1;

  GN_DEVICE StagedTile(unsigned char* region, int /*slot_stride*/) : shared(region) {}

  template <typename Visit>
  GN_DEVICE void load(const T* x, const Slice& thread_slice, Visit visitor) {
    constexpr int kStep = kWide<T>;
    slice = thread_slice;
    const int head = elements_to_alignment(x, slice.elements);
    const int vectors = (slice.elements - head) / kStep;
    const int tail = head + vectors * kStep;
    block_barrier();  // the run before may still be being stored from here
    staged = reinterpret_cast<T*>(shared + reinterpret_cast<std::uintptr_t>(x) % 16);
    const auto thread = static_cast<int>(threadIdx.x);
    const auto threads = static_cast<int>(blockDim.x);
    for (int v = thread; v < vectors; v += threads) {
      async_copy_16(staged + head + v * kStep, x + head + v * kStep);
    }
    async_commit();
    if (thread < head) staged[thread] = x[thread];
    if (tail + thread < slice.elements) staged[tail + thread] = x[tail + thread];
    async_wait<0>();
    block_barrier();
    visit(visitor);
  }

  template <typename Visit>
  GN_DEVICE void visit(Visit visitor) {
    for (int j = 0; j < slice.count; ++j) visitor(Floats<1>{{to_float(staged[slice.first + j * slice.step])}});
  }

  template <typename Transform>
  GN_DEVICE void store(T* y, const Transform& transform) {
    constexpr int kStep = kWide<T>;
    const int head = transform.vectors_allowed() ? elements_to_alignment(y, slice.elements) : slice.elements;
    const int vectors = (slice.elements - head) / kStep;
    const int tail = head + vectors * kStep;
    const auto thread = static_cast<int>(threadIdx.x);
    const auto threads = static_cast<int>(blockDim.x);
    for (int i = thread; i < head; i += threads) store_one(y, i, transform);
    for (int v = thread; v < vectors; v += threads) {
      const int first = head + v * kStep;
      Floats<kStep> floats;
#pragma unroll
      for (int e = 0; e < kStep; ++e) floats.value[e] = to_float(staged[first + e]);
      transform(first, floats);
      store_pack(y + first, pack_floats<T>(floats));
    }
    for (int i = tail + thread; i < slice.elements; i += threads) store_one(y, i, transform);
  }

 private:
  template <typename Transform>
  GN_DEVICE void store_one(T* y, int index, const Transform& transform) {
    Floats<1> one{{to_float(staged[index])}};
    transform(index, one);
    y[index] = from_float<T>(one.value[0]);
  }

  unsigned char* shared;
  T* staged = nullptr;
  Slice slice = {};
};

}  // namespace gn::cuda
