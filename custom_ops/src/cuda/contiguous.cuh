// What the channels-first kernels share: a group is n = (C/G) * spatial elements in a row.
#pragma once

#include "activation.cuh"
#include "fast_division.h"
#include "moments.cuh"
#include "tile.cuh"

namespace gn::cuda {

struct ContiguousParams {
  const void* x;
  const void* scale;
  const void* bias;
  void* y;
  Moments* partials;            // [groups][parts], split only
  std::int64_t groups;          // N * G
  std::int64_t group_elements;  // n
  std::int64_t part_elements;   // of every part but the last
  std::int64_t spatial;
  std::int64_t num_groups;
  std::int64_t channels_per_group;
  FastDivisor by_spatial;  // by min(spatial, 2^31)
  int parts;
  int step_elements;        // split: elements held at once
  std::int64_t scale_mask;  // of a channel's index: all bits, or none where one scale serves all channels
  std::int64_t bias_mask;
  float epsilon;
  Activation activation;
  float alpha;
};

// A run of elements of one group: a part of it, or one step of a part.
template <typename T>
struct ContiguousRun {
  const T* x;
  T* y;
  std::int64_t start;  // index of the first element in its group
  int elements;

  // Thread `thread` of `threads` takes every threads-th vector.
  template <int kVector>
  GN_DEVICE Slice slice(int thread, int threads) const {
    const int vectors = elements / kVector;
    const int count = vectors > thread ? (vectors - thread - 1) / threads + 1 : 0;
    return {std::int64_t{thread} * kVector, std::int64_t{threads} * kVector, count, elements};
  }
};

template <typename T>
GN_DEVICE ContiguousRun<T> contiguous_run(const ContiguousParams& p, std::int64_t group, std::int64_t start,
                                          std::int64_t end) {
  if (end > p.group_elements) end = p.group_elements;
  const std::int64_t offset = group * p.group_elements + start;
  return {static_cast<const T*>(p.x) + offset, static_cast<T*>(p.y) + offset, start,
          end > start ? static_cast<int>(end - start) : 0};
}

// Mean and variance of what the tile holds, in two passes over it.
template <typename Tile, typename Reduce>
GN_DEVICE Moments contiguous_moments(Tile& tile, const typename Tile::Element* x, const Slice& slice, Reduce& reduce) {
  const auto count = static_cast<float>(slice.elements);
  float sum = 0.0F;
  tile.load(x, slice, [&](const auto& floats) {
    float of_vector = 0.0F;
#pragma unroll
    for (const float v : floats.value) of_vector += v;
    sum += of_vector;  // short runs first: the error grows with the number of additions in a row
  });
  const float pivot = slice.elements == 0 ? 0.0F : reduce(sum) / count;
  Sums about{0.0F, 0.0F};
  tile.visit([&](const auto& floats) {
    Sums of_vector{0.0F, 0.0F};
#pragma unroll
    for (const float v : floats.value) {
      const float d = v - pivot;
      of_vector.first += d;
      of_vector.second += d * d;
    }
    about.first += of_vector.first;
    about.second += of_vector.second;
  });
  about = reduce(about);
  return moments_about(pivot, about.first, about.second, count);
}

// y = activation((x - mean) * rstd * scale + bias) for elements of one run.
template <typename T>
class ContiguousAffine {
 public:
  GN_DEVICE ContiguousAffine(const ContiguousParams& p, std::int64_t group, const ContiguousRun<T>& run,
                             const Moments& moments)
      : p(p), normaliser(moments, p.epsilon) {
    const std::int64_t row = run.start / p.spatial;
    const std::int64_t left = (row + 1) * p.spatial - run.start;
    first_channel = group % p.num_groups * p.channels_per_group + row;
    first_row = left < kLongRow ? static_cast<std::uint32_t>(left) : kLongRow;
  }

  // A vector of several elements may touch two channels, never three.
  GN_DEVICE bool vectors_allowed() const { return p.spatial >= kWide<T>; }

  // `index` is relative to the run's first element.
  template <int kVector>
  GN_DEVICE void operator()(std::int64_t index, Floats<kVector>& floats) const {
    const auto i = static_cast<std::uint32_t>(index);
    std::uint32_t channel = 0;
    std::uint32_t left = first_row - i;  // elements from here to the end of the channel
    if (i >= first_row) {
      const std::uint32_t beyond = i - first_row;
      const std::uint32_t row = (multiply_high(beyond, p.by_spatial.multiplier) + beyond) >> p.by_spatial.shift;
      channel = row + 1;
      left = p.by_spatial.divisor - (beyond - row * p.by_spatial.divisor);
    }
    const float a = scale(channel) * normaliser.rstd;
    const float b = normaliser.constant(a, bias(channel));
    float a_next = a;
    float b_next = b;
    if (left < kVector) {
      a_next = scale(channel + 1) * normaliser.rstd;
      b_next = normaliser.constant(a_next, bias(channel + 1));
    }
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const bool next = static_cast<std::uint32_t>(e) >= left;
      floats.value[e] = fmaf(floats.value[e] - normaliser.centre, next ? a_next : a, next ? b_next : b);
    }
    activate<T>(p.activation, p.alpha, floats);
  }

 private:
  static constexpr std::uint32_t kLongRow = 1U << 31;  // longer than any run

  GN_DEVICE float scale(std::uint32_t channel) const {
    return to_float(static_cast<const T*>(p.scale)[(first_channel + channel) & p.scale_mask]);
  }
  GN_DEVICE float bias(std::uint32_t channel) const {
    return to_float(static_cast<const T*>(p.bias)[(first_channel + channel) & p.bias_mask]);
  }

  const ContiguousParams& p;
  std::int64_t first_channel;  // that of the run's first element
  Normaliser normaliser;
  std::uint32_t first_row;  // elements of the run in its first channel
};

}  // namespace gn::cuda
