// Where a block keeps the part of a tile that it works on between the two passes and the output: registers or shared
// memory. Every thread holds its own vectors only, so these tiles need no barrier.
//
//   load(x, slice, visit)   reads the thread's vectors and calls visit(Floats) for each
//   visit(visit)            calls visit(Floats) for each again, in the same order
//   store(y, transform)     calls transform(offset, Floats&) for each and writes what it leaves
#pragma once

#include "pack.cuh"

namespace gn::cuda {

// The vectors of one thread: `count` of them at x + first, x + first + step, ... (in elements).
struct Slice {
  std::int64_t first;
  std::int64_t step;
  int count;
  int elements;  // of the whole part, all threads together
};

struct Ignore {
  template <int kVector>
  GN_DEVICE void operator()(const Floats<kVector>&) const {}
};

template <typename T, int kVectorElements, int kVectors, Reuse kReuse = Reuse::kOnce>
class RegisterTile {
 public:
  using Element = T;
  static constexpr int kVector = kVectorElements;

  GN_DEVICE RegisterTile(unsigned char* /*shared*/, int /*slot_stride*/) {}

  template <typename Visit>
  GN_DEVICE void load(const T* x, const Slice& thread_slice, Visit visitor) {
    slice = thread_slice;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      if (j < slice.count) held[j] = load_pack<T, kVector, kReuse>(x + slice.first + j * slice.step);
    }
    visit(visitor);
  }

  template <typename Visit>
  GN_DEVICE void visit(Visit visitor) {
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      if (j < slice.count) {
        visitor(unpack(held[j]));
        forget(held[j]);
      }
    }
  }

  template <typename Transform>
  GN_DEVICE void store(T* y, const Transform& transform) {
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      if (j < slice.count) {
        const std::int64_t offset = slice.first + j * slice.step;
        Floats<kVector> floats = unpack(held[j]);
        transform(offset, floats);
        store_pack(y + offset, pack_floats<T>(floats));
      }
    }
  }

 private:
  Pack<T, kVector> held[kVectors] = {};
  Slice slice = {};
};

template <typename T, int kVectorElements>
class SharedTile {
 public:
  using Element = T;
  static constexpr int kVector = kVectorElements;

  // `slot_stride`: threads that hold something.
  GN_DEVICE SharedTile(unsigned char* shared, int slot_stride)
      : slots(reinterpret_cast<Pack<T, kVector>*>(shared) + threadIdx.x), stride(slot_stride) {}

  // All copies are under way before the first one is waited for, and the first visit overlaps the later ones.
  template <typename Visit>
  GN_DEVICE void load(const T* x, const Slice& thread_slice, Visit visitor) {
    slice = thread_slice;
    if constexpr (kVector == 1) {
      for (int j = 0; j < slice.count; ++j) slots[j * stride].bits = x[slice.first + j * slice.step];
      visit(visitor);
    } else {
      const int batch = (slice.count + kBatches - 1) / kBatches;
#pragma unroll
      for (int b = 0; b < kBatches; ++b) {
        for (int j = b * batch; j < end_of(b, batch); ++j) {
          async_copy_16(&slots[j * stride], x + slice.first + j * slice.step);
        }
        async_commit();
      }
      visit_batch<0>(batch, visitor);
    }
  }

  template <typename Visit>
  GN_DEVICE void visit(Visit visitor) {
    visit_range(0, slice.count, visitor);
  }

  template <typename Transform>
  GN_DEVICE void store(T* y, const Transform& transform) {
    for (int j = 0; j < slice.count; ++j) {
      const std::int64_t offset = slice.first + j * slice.step;
      Floats<kVector> floats = unpack(slots[j * stride]);
      transform(offset, floats);
      store_pack(y + offset, pack_floats<T>(floats));
    }
  }

 private:
  static constexpr int kBatches = 4;

  GN_DEVICE int end_of(int b, int batch) const {
    const int end = (b + 1) * batch;
    return end < slice.count ? end : slice.count;
  }

  template <typename Visit>
  GN_DEVICE void visit_range(int begin, int end, Visit& visitor) {
    for (int j = begin; j < end; ++j) visitor(unpack(slots[j * stride]));
  }

  template <int kBatch, typename Visit>
  GN_DEVICE void visit_batch(int batch, Visit& visitor) {
    async_wait<kBatches - 1 - kBatch>();
    visit_range(kBatch * batch, end_of(kBatch, batch), visitor);
    if constexpr (kBatch + 1 < kBatches) visit_batch<kBatch + 1>(batch, visitor);
  }

  Pack<T, kVector>* slots;
  int stride;
  Slice slice = {};
};

}  // namespace gn::cuda
