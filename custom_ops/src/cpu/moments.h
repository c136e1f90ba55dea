// Mean and sum of squared deviations, and how those of parts are combined.
//
// A part is read once: d = x - shift with a shift near the mean, taken from a few vectors of the part, and the sums of
// d and d^2 (never of x^2). Where the mean turns out to be more than two standard deviations away from the shift, the
// part is read again with the mean itself as shift; below that, M2 = sum d^2 - (sum d)^2 / n loses at most a factor
// of 5. Sums run over a fixed number of lanes in runs of at most kRun additions that are then added in double, so the
// order of accumulation is a function of the count alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/vector.h"

namespace gn::GN_ISA {

// A number to more digits than a double has: a mean of 10^4 standard deviations costs no digit of x - mean.
struct LongNumber {
  double high = 0.0;
  double low = 0.0;  // what high leaves
};

// The exact sum of two doubles (Knuth).
inline LongNumber two_sum(double a, double b) {
  const double sum = a + b;
  const double part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}

// Count, mean and M2 = sum of (x - mean)^2.
struct Moments {
  double count = 0.0;
  LongNumber mean;
  LongNumber m2;
};

// Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979), eq. 2.1.
inline Moments combine(const Moments& a, const Moments& b) {
  if (a.count == 0.0) return b;
  const double count = a.count + b.count;
  const double delta = (b.mean.high - a.mean.high) + (b.mean.low - a.mean.low);
  const LongNumber m2 = two_sum(a.m2.high, b.m2.high);
  const double rest = m2.low + a.m2.low + b.m2.low + delta * delta * (a.count * b.count / count);
  return {count, two_sum(a.mean.high, a.mean.low + delta * (b.count / count)), two_sum(m2.high, rest)};
}

inline constexpr std::int64_t kChunkElements = 16384;  // 64 KB of float: any L2 holds it for the second look
inline constexpr int kColumns = 4;  // vectors summed side by side, to hide the latency of an addition
inline constexpr int kRun = 8;      // additions of floats in a row

// A sum in double of what was computed in W. For double it keeps what the additions round off; sums of floats would
// gain nothing.
template <typename W>
struct LongSum {
  LongNumber sum;

  void add(double term) {
    if constexpr (std::is_same_v<W, double>) {
      const LongNumber next = two_sum(sum.high, term);
      sum = {next.high, sum.low + next.low};
    } else {
      sum.high += term;
    }
  }
  double total() const { return sum.high + sum.low; }
};

// Lane by lane sums of vectors, in double.
template <typename W>
class LaneSums;

template <>
class LaneSums<float> {
 public:
  void add(Vector<float> v) {
    sums_[0] += to_double(half_of(v, 0));
    sums_[1] += to_double(half_of(v, 1));
  }
  void store(double* lanes) const { std::memcpy(lanes, sums_, sizeof(sums_)); }
  double total() const { return sum_of_lanes<double>(sums_[0] + sums_[1]); }

 private:
  Vector<double> sums_[2] = {};
};

template <>
class LaneSums<double> {
 public:
  void add(Vector<double> v) {
    const Vector<double> sum = values_ + v;
    const Vector<double> part = sum - values_;
    rests_ += (values_ - (sum - part)) + (v - part);
    values_ = sum;
  }
  void store(double* lanes) const {
    const Vector<double> sums = values_ + rests_;
    std::memcpy(lanes, &sums, sizeof(sums));
  }
  double total() const {
    LongSum<double> sum;
    for (int i = 0; i < kWidth<double>; ++i) {
      sum.add(values_[i]);
      sum.add(rests_[i]);
    }
    return sum.total();
  }

 private:
  Vector<double> values_ = {};
  Vector<double> rests_ = {};
};

// Sums of d = x - shift and of d^2.
struct Deviations {
  double sum = 0.0;
  double squares = 0.0;
};

// In a function of its own: what surrounds it would take the registers that the sums need.
template <typename T>
[[gnu::noinline]] Deviations deviations(const T* x, std::int64_t count, Wide<T> shift) {
  using W = Wide<T>;
  constexpr std::int64_t kStep = kColumns * kWidth<W>;
  LaneSums<W> sums;
  LaneSums<W> squares;
  for (std::int64_t i = 0; i < count;) {
    const std::int64_t run_end = std::min(count, i + kRun * kStep);
    Vector<W> sum[kColumns] = {};
    Vector<W> square[kColumns] = {};
    for (; i + kStep <= run_end; i += kStep) {
      for (int v = 0; v < kColumns; v += kBlockVectors<T>) {
        const Block<T> block = load_block(x + i + v * kWidth<W>);
        for (int k = 0; k < kBlockVectors<T>; ++k) {
          const Vector<W> d = block.vectors[k] - shift;
          sum[v + k] += d;
          square[v + k] += d * d;
        }
      }
    }
    if (count - i < kStep) {  // the rest belongs to this run
      for (; i + kWidth<W> <= count; i += kWidth<W>) {
        const Vector<W> d = load(x + i) - shift;
        sum[0] += d;
        square[0] += d * d;
      }
      if (i < count) {
        const Vector<W> d = load_partial(x + i, count - i, shift) - shift;
        sum[1] += d;
        square[1] += d * d;
        i = count;
      }
    }
    sums.add((sum[0] + sum[1]) + (sum[2] + sum[3]));
    squares.add((square[0] + square[1]) + (square[2] + square[3]));
  }
  return {sums.total(), squares.total()};
}

// Moments from sums of deviations from `shift`; true when the shift was near enough to the mean. A NaN or an infinity
// asks for no second look: it is the result.
inline bool moments_of(const Deviations& d, double shift, double count, Moments* moments) {
  const double offset = d.sum / count;
  const double m2 = d.squares - d.sum * offset;
  *moments = {count, two_sum(shift, offset), {m2 < 0.0 ? 0.0 : m2, 0.0}};
  return !(d.sum * offset > 0.8 * d.squares && std::isfinite(d.squares));  // offset^2 <= 4 variances
}

// A value near the mean: of a few vectors spread over x.
template <typename T>
inline Wide<T> sample_mean(const T* x, std::int64_t count) {
  using W = Wide<T>;
  const bool spread = count >= 4 * kWidth<W>;
  Vector<W> sample;
  if (spread) {
    const std::int64_t last = count - kWidth<W>;
    sample = (load(x) + load(x + last / 3)) + (load(x + last * 2 / 3) + load(x + last));
  } else {
    sample = count < kWidth<W> ? load_partial(x, count, W{0}) : load(x);
  }
  if (count >= kWidth<W>) return sum_of_lanes<W>(sample) * (W{1} / static_cast<W>(spread ? 4 * kWidth<W> : kWidth<W>));
  return sum_of_lanes<W>(sample) / static_cast<W>(count);
}

// Moments of `count` elements in a row, in two steps: what reads them all, and a chain of dependent operations, of
// which several run side by side when they are not between the first steps.
template <typename T>
struct FirstLook {
  FirstLook(const T* elements, std::int64_t elements_count)
      : x(elements), count(elements_count), shift(sample_mean(x, count)), sums(deviations(x, count, shift)) {}
  Moments moments() const {
    Moments result;
    const auto n = static_cast<double>(count);
    if (!moments_of(sums, static_cast<double>(shift), n, &result)) {
      const auto mean = static_cast<Wide<T>>(result.mean.high);
      moments_of(deviations(x, count, mean), static_cast<double>(mean), n, &result);
    }
    return result;
  }

  const T* x;
  std::int64_t count;
  Wide<T> shift;
  Deviations sums;
};

// What the output needs of a group: y = (x - mean) * rstd * scale + bias.
struct Normaliser {
  LongNumber mean;
  LongNumber rstd;
  bool far_from_zero = false;  // the mean is more than a standard deviation away
};

// 1 / sqrt(M2 / count + epsilon). For double with what each step rounds off: a step of Newton's method.
template <typename W>
inline LongNumber rstd_of(const Moments& moments, double epsilon) {
  const double variance = moments.m2.high / moments.count;
  const LongNumber radicand = two_sum(variance, epsilon);
  const double rstd = 1.0 / std::sqrt(radicand.high);
  if constexpr (std::is_same_v<W, float>) return {rstd, 0.0};
  const double low =
      radicand.low + (std::fma(-variance, moments.count, moments.m2.high) + moments.m2.low) / moments.count;
  const double product = radicand.high * rstd;
  const double rest = std::fma(radicand.high, rstd, -product);
  const double correction = std::fma(-product, rstd, 1.0) - (rest + low * rstd) * rstd;
  return {rstd, std::isfinite(correction) ? 0.5 * rstd * correction : 0.0};
}

template <typename W>
inline Normaliser normaliser(const Moments& moments, double epsilon) {
  const double mean = moments.mean.high;
  return {moments.mean, rstd_of<W>(moments, epsilon), mean * mean > moments.m2.high / moments.count};
}

}  // namespace gn::GN_ISA
