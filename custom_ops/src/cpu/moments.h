// Mean and sum of squared deviations of a chunk, and how chunks are combined.
//
// A chunk is read once: d = x - shift with a shift near the mean, taken from a sample of the chunk, and the sums of d
// and d^2 (never of x^2). Where the sample was so unlucky that the mean is more than two standard deviations away from
// the shift, the chunk is read again with the mean itself. Sums run over a fixed number of lanes in short runs that are
// then added in double, so the order of accumulation is a function of the count alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/vector.h"

namespace gn::GN_ISA {

// Count, mean and M2 = sum of (x - mean)^2.
struct Moments {
  double count = 0.0;
  double mean = 0.0;
  double m2 = 0.0;
};

// Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979), eq. 2.1.
inline Moments combine(const Moments& a, const Moments& b) {
  if (a.count == 0.0) return b;
  const double count = a.count + b.count;
  const double delta = b.mean - a.mean;
  return {count, a.mean + delta * (b.count / count), a.m2 + b.m2 + delta * delta * (a.count * b.count / count)};
}

// A sum in double that keeps what the additions round off (Neumaier): float sums gain nothing from it, double sums do.
template <typename W>
struct LongSum {
  double value = 0.0;
  double rest = 0.0;

  void add(double term) {
    if constexpr (std::is_same_v<W, double>) {
      const double total = value + term;
      rest += std::abs(value) >= std::abs(term) ? (value - total) + term : (term - total) + value;
      value = total;
    } else {
      value += term;
    }
  }
  double total() const { return value + rest; }
};

inline constexpr std::int64_t kChunkElements = 16384;  // half of it is left in a 32 KB L1 for float16; all in any L2
inline constexpr int kLanes = 32;
inline constexpr std::int64_t kRun = 1024;  // elements per lane sum: 32 additions each, then into double
inline constexpr std::int64_t kSample = 16;

template <typename W>
struct Deviations {
  LongSum<W> sum;
  LongSum<W> squares;
};

// Sums of d and d^2 over `count` elements.
template <typename T>
inline Deviations<Wide<T>> deviations(const T* x, std::int64_t count, Wide<T> shift) {
  using W = Wide<T>;
  constexpr int kVectors = kLanes / kWidth<W>;
  static_assert(kVectors >= 1 && kVectors * kWidth<W> == kLanes);
  Deviations<W> out;
  const Vector<W> center = broadcast(shift);
  for (std::int64_t begin = 0; begin < count; begin += kRun) {
    const std::int64_t end = std::min(count, begin + kRun);
    Vector<W> sum[kVectors] = {};
    Vector<W> squares[kVectors] = {};
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int v = 0; v < kVectors; ++v) {
        const Vector<W> d = load(x + i + v * kWidth<W>) - center;
        sum[v] += d;
        squares[v] += d * d;
      }
    }
    for (int v = 0; i < end; ++v, i += kWidth<W>) {
      const std::int64_t left = std::min<std::int64_t>(kWidth<W>, end - i);
      const Vector<W> d = (left == kWidth<W> ? load(x + i) : load_partial(x + i, left, shift)) - center;
      sum[v] += d;
      squares[v] += d * d;
    }
    Vector<double> run_sum = {};
    Vector<double> run_squares = {};
    for (int v = 0; v < kVectors; ++v) {
      run_sum += widened(sum[v]);
      run_squares += widened(squares[v]);
    }
    out.sum.add(lane_sum(run_sum));
    out.squares.add(lane_sum(run_squares));
  }
  return out;
}

// Moments from sums of deviations from `shift`; true when the shift was near enough to the mean.
template <typename W>
inline bool moments_of(const Deviations<W>& d, double shift, double count, Moments* moments) {
  const double sum = d.sum.total();
  const double squares = d.squares.total();
  const double offset = sum / count;
  *moments = {count, shift + offset, std::max(squares - sum * offset, 0.0)};
  if (std::isnan(squares)) moments->m2 = squares;
  return !(sum * offset > 0.8 * squares);  // offset^2 <= 4 variances; NaN asks for no second look
}

// A value near the mean: the mean of a few elements spread over the chunk.
template <typename T>
inline Wide<T> sample_mean(const T* x, std::int64_t count) {
  const std::int64_t taken = std::min(count, kSample);
  const std::int64_t stride = count / taken;
  double sum = 0.0;
  for (std::int64_t i = 0; i < taken; ++i) sum += static_cast<double>(load_one(x + i * stride));
  return static_cast<Wide<T>>(sum / static_cast<double>(taken));
}

template <typename T>
inline Moments chunk_moments(const T* x, std::int64_t count) {
  Moments moments;
  const Wide<T> shift = sample_mean(x, count);
  const auto n = static_cast<double>(count);
  if (!moments_of(deviations(x, count, shift), static_cast<double>(shift), n, &moments)) {
    const auto mean = static_cast<Wide<T>>(moments.mean);
    moments_of(deviations(x, count, mean), static_cast<double>(mean), n, &moments);
  }
  return moments;
}

// What the second pass needs of a group: (x - mean_high) * a + b, with b made of the rest of the mean.
struct Normaliser {
  double mean = 0.0;
  double rstd = 0.0;
};

inline Normaliser normaliser(const Moments& moments, double epsilon) {
  return {moments.mean, 1.0 / std::sqrt(moments.m2 / moments.count + epsilon)};
}

}  // namespace gn::GN_ISA
