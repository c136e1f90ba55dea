// The output, y = activation((x - mean) * a + b), for rows with one channel and for rows of channels.
//
// y may be x: what a vector needs is loaded before anything that overlaps it is stored.
#pragma once

#include "cpu/activation.h"
#include "cpu/moments.h"

namespace gn::GN_ISA {

inline constexpr std::int64_t kParameterChannels = 256;  // channels whose parameters are held at a time

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
struct ChannelParameters {
  W mean[kParameterChannels];
  W a[kParameterChannels];
  W b[kParameterChannels];

  // Of `count` channels of one group.
  template <typename T>
  void set(std::int64_t first, std::int64_t count, const Normaliser& normal, const T* scale, const T* bias) {
    const SplitMean<W> split(normal);
    for (std::int64_t i = 0; i < count; ++i) {
      const W factor = rounded_product(to_wide(scale[i]), normal.rstd);
      mean[first + i] = split.rounded;
      a[first + i] = factor;
      b[first + i] = static_cast<W>(static_cast<double>(to_wide(bias[i])) - split.rest * static_cast<double>(factor));
    }
  }

  // The first `count` channels, `times` times one after the other.
  void repeat(std::int64_t count, std::int64_t times) {
    for (W* values : {mean, a, b}) {
      for (std::int64_t i = count; i < count * times; ++i) values[i] = values[i - count];
    }
  }

 private:
  static W rounded_product(W scale, const LongNumber& rstd) {
    if constexpr (std::is_same_v<W, double>) {
      const double product = scale * rstd.high;
      return product + (std::fma(scale, rstd.high, -product) + scale * rstd.low);
    }
    return static_cast<W>(static_cast<double>(scale) * rstd.high);
  }
};

// The functions of one activation, so that only they are compiled once per activation.
template <typename T>
struct RowWriter {
  using W = Wide<T>;
  // `rows` rows of `count` elements, one after the other, each of a channel of its own.
  void (*rows)(const T* x, T* y, std::int64_t rows, std::int64_t count, const ChannelParameters<W>& parameters,
               W alpha);
  // `rows` rows, `stride` elements apart, of `width` channels.
  void (*channels)(const T* x, T* y, std::int64_t rows, std::int64_t stride, std::int64_t width,
                   const ChannelParameters<W>& parameters, W alpha);
  W alpha;
  bool streams;
};

// How many elements from y on the next whole vector of memory begins.
template <typename T>
inline std::int64_t elements_to_boundary(const T* y) {
  constexpr std::uintptr_t kAlignment = kWidth<Wide<T>> * sizeof(T);
  return static_cast<std::int64_t>((kAlignment - reinterpret_cast<std::uintptr_t>(y) % kAlignment) % kAlignment /
                                   sizeof(T));
}

template <typename T, bool kStream, typename Result>
GN_INLINE void write_row(const T* x, T* y, std::int64_t count, const Result& result) {
  using W = Wide<T>;
  constexpr std::int64_t kLongRow = 8 * kWidth<W>;  // here stores that cross no boundary are worth two more of them
  const std::int64_t last = count - kWidth<W>;      // the last vector overlaps the one before it
  const Vector<W> tail = result(load(x + last));
  std::int64_t i = kStream || count >= kLongRow ? elements_to_boundary(y) : 0;
  if (i > 0) {
    const Vector<W> head = result(load(x));
    if constexpr (kStream) {
      store(y, head);
    } else {
      const Vector<W> next = result(load(x + i));  // before what it overlaps is stored
      store(y, head);
      store(y + i, next);
      i += kWidth<W>;
    }
  }
  for (; i < last; i += kWidth<W>) {
    store<kStream>(y + i, result(load(x + i)));
  }
  store(y + last, tail);
}

template <typename T, Activation kActivation, bool kStream>
void write_rows(const T* x, T* y, std::int64_t rows, std::int64_t count, const ChannelParameters<Wide<T>>& parameters,
                Wide<T> alpha) {
  using W = Wide<T>;
  for (std::int64_t r = 0; r < rows; ++r, x += count, y += count) {
    const Vector<W> mean = broadcast(parameters.mean[r]);
    const Vector<W> a = broadcast(parameters.a[r]);
    const Vector<W> b = broadcast(parameters.b[r]);
    const auto result = [&](Vector<W> v) { return activate<kActivation, W>((v - mean) * a + b, alpha); };
    if (count < kWidth<W>) {
      store_partial(y, result(load_partial(x, count, W{0})), count);
    } else {
      write_row<T, kStream>(x, y, count, result);
    }
  }
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
  return {write_rows<T, kActivation, kStream>, write_channels<T, kActivation, kStream>, alpha, kStream};
}

template <typename T, Activation kActivation>
RowWriter<T> row_writer(Wide<T> alpha, bool streams) {
  return streams ? row_writer<T, kActivation, true>(alpha) : row_writer<T, kActivation, false>(alpha);
}

}  // namespace gn::GN_ISA
