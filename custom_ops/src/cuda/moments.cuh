// Mean and variance of a group: of a tile in two passes over values that are on chip, and of a group from its parts.
//
// The mean is kept as pivot + offset. The pivot is a float near the mean, so x - pivot is nearly exact; the offset is
// what the first pass's sum missed, found in the second pass. With a mean of 10^4 deviations the mean's own rounding
// would otherwise be the largest error of the result.
#pragma once

#include "reduce.cuh"

namespace gn::cuda {

struct alignas(16) Moments {
  float pivot;
  float offset;   // mean = pivot + offset
  float squares;  // sum of (x - mean)^2
  float count;
};

// From sums about a pivot: sum of (x - pivot) and of (x - pivot)^2.
GN_DEVICE Moments moments_about(float pivot, float sum, float squares, float count) {
  if (count == 0.0F) return {0.0F, 0.0F, 0.0F, 0.0F};
  const float offset = sum / count;
  const float about_mean = squares - sum * offset;
  return {pivot, offset, about_mean < 0.0F ? 0.0F : about_mean, count};  // NaN stays NaN
}

// Distance of a part's mean from an origin, without adding pivot and offset first.
GN_DEVICE float distance(const Moments& part, float origin) { return (part.pivot - origin) + part.offset; }

GN_DEVICE Moments moments_at(float origin, float shift, float squares, float count) {
  const float pivot = origin + shift;
  return {pivot, (origin - pivot) + shift, squares, count};
}

// Chan's combination of all parts, in index order. parts: [parts], `stride` apart; the first one is not empty.
GN_DEVICE Moments combine_in_order(const Moments* parts, int count, int stride) {
  const float origin = parts[0].pivot;
  float elements = 0.0F;
  float weighted = 0.0F;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const Moments part = parts[i * stride];
    elements += part.count;
    weighted += part.count == 0.0F ? 0.0F : part.count * distance(part, origin);
  }
  const float shift = weighted / elements;
  float squares = 0.0F;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const Moments part = parts[i * stride];
    const float d = distance(part, origin) - shift;
    squares += part.count == 0.0F ? 0.0F : part.squares + part.count * d * d;
  }
  return moments_at(origin, shift, squares, elements);
}

GN_DEVICE Moments combine(const Moments& a, const Moments& b) {
  const float elements = a.count + b.count;
  const float d = distance(b, a.pivot);
  const float shift = (a.count * a.offset + b.count * d) / elements;
  const float from_a = a.offset - shift;
  const float from_b = d - shift;
  const float between = a.count * from_a * from_a + b.count * from_b * from_b;
  return moments_at(a.pivot, shift, a.squares + b.squares + between, elements);
}

// Chan's combination of many parts by the `threads` threads that `reduce` sums over; every one gets the result. The
// order depends on `count` and `threads` only. partials: [count], in global memory, from the launch before.
template <typename Reduce>
GN_DEVICE Moments combine_by(const Moments* partials, int count, int thread, int threads, Reduce&& reduce) {
  auto read = [&](int i) { return bit_cast<Moments>(load_again(reinterpret_cast<const Bits128*>(partials + i))); };
  const float origin = read(0).pivot;
  Sums sums{0.0F, 0.0F};
#pragma unroll 1
  for (int i = thread; i < count; i += threads) {
    const Moments part = read(i);
    sums.first += part.count;
    sums.second += part.count * distance(part, origin);
  }
  sums = reduce(sums);
  const float elements = sums.first;
  const float shift = sums.second / elements;
  float squares = 0.0F;
#pragma unroll 1
  for (int i = thread; i < count; i += threads) {
    const Moments part = read(i);
    const float d = distance(part, origin) - shift;
    squares += part.squares + part.count * d * d;
  }
  return moments_at(origin, shift, reduce(squares), elements);
}

// 1 / sqrt(squares / count + epsilon), correctly rounded but for the sums' own error: what the roundings on the way
// lost is put back by one step of Newton's method. It scales every element, and PyTorch's is to be no better.
GN_DEVICE float reciprocal_deviation(const Moments& moments, float epsilon) {
  const float variance = moments.squares / moments.count;
  const float sum = variance + epsilon;
  const float added = sum - variance;
  const float lost =
      (variance - (sum - added)) + (epsilon - added) + fmaf(-variance, moments.count, moments.squares) / moments.count;
  const float root = reciprocal_root_fast(sum);
  const float product = sum * root;
  const float missing = fmaf(-lost * root, root, fmaf(-fmaf(sum, root, -product), root, fmaf(-product, root, 1.0F)));
  return fabsf(missing) < 0x1p-10F ? fmaf(0.5F * root, missing, root) : root;  // not where something is 0 or infinite
}

// (x - mean) * rstd as (x - centre) * rstd - rest * rstd.
//
// Where the mean is large beside the deviation, the pivot has to be subtracted first. Elsewhere that would only round x
// once more.
struct Normaliser {
  float centre;
  float rest;
  float rstd;

  GN_DEVICE Normaliser(const Moments& moments, float epsilon) : rstd(reciprocal_deviation(moments, epsilon)) {
    const bool large = !(fabsf(moments.pivot) * rstd <= 1.0F);
    centre = large ? moments.pivot : 0.0F;
    rest = large ? moments.offset : moments.pivot + moments.offset;
  }

  // The constant in (x - centre) * factor + constant.
  GN_DEVICE float constant(float factor, float bias) const { return fmaf(-rest, factor, bias); }
};

}  // namespace gn::cuda
