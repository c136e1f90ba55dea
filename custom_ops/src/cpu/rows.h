// The output, y = activation((x - mean) * a + b), for rows with one channel and for rows of channels.
//
// y may be x: what a vector needs is loaded before anything that overlaps it is stored.
#pragma once

#include "cpu/activation.h"
#include "cpu/moments.h"

namespace gn::GN_ISA {

inline constexpr std::int64_t kParameterChannels = 256;  // channels whose parameters are held at a time

template <typename W>
struct RowParameters {
  W mean;
  W a;
  W b;
};

// What is subtracted of x, and what that leaves of the mean, which b takes in. Near zero nothing is subtracted: that
// saves a rounding. Farther away it is the mean rounded to W: no digit of x - mean is lost.
template <typename W>
struct SplitMean {
  explicit SplitMean(const Normaliser& normal)
      : rounded(normal.far_from_zero ? static_cast<W>(normal.mean.high) : W{0}),
        rest((normal.mean.high - static_cast<double>(rounded)) + normal.mean.low) {}
  W rounded;
  double rest;
};

template <typename W>
inline RowParameters<W> row_parameters(const SplitMean<W>& mean, const LongNumber& rstd, W scale, W bias) {
  W a;
  if constexpr (std::is_same_v<W, double>) {
    const double product = scale * rstd.high;
    a = product + (std::fma(scale, rstd.high, -product) + scale * rstd.low);
  } else {
    a = static_cast<W>(static_cast<double>(scale) * rstd.high);
  }
  return {mean.rounded, a, static_cast<W>(static_cast<double>(bias) - mean.rest * static_cast<double>(a))};
}

template <typename W>
struct ChannelParameters {
  W mean[kParameterChannels];
  W a[kParameterChannels];
  W b[kParameterChannels];

  // Of `count` channels of one group.
  template <typename T>
  void set(std::int64_t first, std::int64_t count, const Normaliser& normal, const T* scale, const T* bias) {
    const SplitMean<W> split(normal);
    for (std::int64_t i = 0; i < count; ++i) {
      const RowParameters<W> row = row_parameters<W>(split, normal.rstd, to_wide(scale[i]), to_wide(bias[i]));
      mean[first + i] = row.mean;
      a[first + i] = row.a;
      b[first + i] = row.b;
    }
  }
};

// The functions of one activation, so that only they are compiled once per activation.
template <typename T>
struct RowWriter {
  using W = Wide<T>;
  // A row of one channel.
  void (*row)(const T* x, T* y, std::int64_t count, const RowParameters<W>& parameters, W alpha);
  // `rows` rows, `stride` elements apart, of `width` channels.
  void (*channels)(const T* x, T* y, std::int64_t rows, std::int64_t stride, std::int64_t width,
                   const ChannelParameters<W>& parameters, W alpha);
  W alpha;
  bool streams;
};

template <typename T, Activation kActivation, bool kStream>
void write_row(const T* x, T* y, std::int64_t count, const RowParameters<Wide<T>>& parameters, Wide<T> alpha) {
  using W = Wide<T>;
  const auto result = [mean = parameters.mean, a = parameters.a, b = parameters.b, alpha](Vector<W> v) {
    return activate<kActivation, W>((v - mean) * a + b, alpha);
  };
  if (count < kWidth<W>) {
    store_partial(y, result(load_partial(x, count, parameters.mean)), count);
    return;
  }
  const std::int64_t last = count - kWidth<W>;  // the last vector overlaps the one before it
  const Vector<W> tail = result(load(x + last));
  std::int64_t i = 0;
  if constexpr (kStream) {
    store(y, result(load(x)));
    constexpr std::uintptr_t kAlignment = kWidth<W> * sizeof(T);
    const std::uintptr_t past = reinterpret_cast<std::uintptr_t>(y) % kAlignment;
    i = past == 0 ? 0 : static_cast<std::int64_t>((kAlignment - past) / sizeof(T));
  }
  for (; i < last; i += kWidth<W>) store<kStream>(y + i, result(load(x + i)));
  store(y + last, tail);
}

template <typename T, Activation kActivation, bool kStream>
void write_channels(const T* x, T* y, std::int64_t rows, std::int64_t stride, std::int64_t width,
                    const ChannelParameters<Wide<T>>& parameters, Wide<T> alpha) {
  using W = Wide<T>;
  constexpr std::int64_t kTogether = 4;  // rows that share a load of the parameters
  if constexpr (kStream) {
    constexpr std::uintptr_t kAlignment = kWidth<W> * sizeof(T);
    if ((reinterpret_cast<std::uintptr_t>(y) | (static_cast<std::uintptr_t>(stride) * sizeof(T))) % kAlignment != 0) {
      return write_channels<T, kActivation, false>(x, y, rows, stride, width, parameters, alpha);
    }
  }
  const auto few_rows = [&](std::int64_t r, auto row_count) {
    std::int64_t c = 0;
    for (; c + kWidth<W> <= width; c += kWidth<W>) {
      const Vector<W> mean = load(parameters.mean + c);
      const Vector<W> a = load(parameters.a + c);
      const Vector<W> b = load(parameters.b + c);
      for (std::int64_t k = 0; k < row_count; ++k) {
        const std::int64_t at = (r + k) * stride + c;
        store<kStream>(y + at, activate<kActivation, W>((load(x + at) - mean) * a + b, alpha));
      }
    }
    if (c == width) return;
    const std::int64_t left = width - c;
    const Vector<W> mean = load_partial(parameters.mean + c, left, W{0});
    const Vector<W> a = load_partial(parameters.a + c, left, W{0});
    const Vector<W> b = load_partial(parameters.b + c, left, W{0});
    for (std::int64_t k = 0; k < row_count; ++k) {
      const std::int64_t at = (r + k) * stride + c;
      const Vector<W> v = (load_partial(x + at, left, W{0}) - mean) * a + b;
      store_partial(y + at, activate<kActivation, W>(v, alpha), left);
    }
  };
  std::int64_t r = 0;
  for (; r + kTogether <= rows; r += kTogether) few_rows(r, std::integral_constant<std::int64_t, kTogether>{});
  for (; r < rows; ++r) few_rows(r, std::integral_constant<std::int64_t, 1>{});
}

template <typename T, Activation kActivation, bool kStream>
RowWriter<T> row_writer(Wide<T> alpha) {
  return {write_row<T, kActivation, kStream>, write_channels<T, kActivation, kStream>, alpha, kStream};
}

template <typename T, Activation kActivation>
RowWriter<T> row_writer(Wide<T> alpha, bool streams) {
  return streams ? row_writer<T, kActivation, true>(alpha) : row_writer<T, kActivation, false>(alpha);
}

}  // namespace gn::GN_ISA
