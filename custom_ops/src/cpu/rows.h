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
  static constexpr std::int64_t kRoom = kParameterChannels + kWidth<W>;  // whole vectors are stored
  alignas(kVectorBytes) W mean[kRoom];
  alignas(kVectorBytes) W a[kRoom];
  alignas(kVectorBytes) W b[kRoom];

  // Of `count` channels of one group. What follows them is overwritten.
  template <typename T>
  void set(std::int64_t first, std::int64_t count, const Normaliser& normal, const T* scale, const T* bias) {
    const SplitMean<W> split(normal);
    for (std::int64_t i = 0; i < count; i += kWidth<W>) {
      const std::int64_t left = count - i;
      const bool whole = left >= kWidth<W>;
      store(mean + first + i, broadcast(split.rounded));
      set_vector(first + i, normal.rstd, split.rest, whole ? load(scale + i) : load_partial(scale + i, left, W{0}),
                 whole ? load(bias + i) : load_partial(bias + i, left, W{0}));
    }
  }

  // The first `count` channels, `times` times one after the other.
  void repeat(std::int64_t count, std::int64_t times) {
    for (W* values : {mean, a, b}) {
      for (std::int64_t i = count; i < count * times; ++i) values[i] = values[i - count];
    }
  }

 private:
  // In double, rounded once.
  void set_vector(std::int64_t at, const LongNumber& rstd, double rest, Vector<float> scale, Vector<float> bias)
    requires std::is_same_v<W, float>
  {
    for (int half = 0; half < 2; ++half) {
      const HalfVector factor = to_float(to_double(half_of(scale, half)) * rstd.high);
      const HalfVector constant = to_float(to_double(half_of(bias, half)) - to_double(factor) * rest);
      std::memcpy(a + at + half * kWidth<double>, &factor, sizeof(factor));
      std::memcpy(b + at + half * kWidth<double>, &constant, sizeof(constant));
    }
  }

  // The products with what they round off.
  void set_vector(std::int64_t at, const LongNumber& rstd, double rest, Vector<double> scale, Vector<double> bias)
    requires std::is_same_v<W, double>
  {
    for (int i = 0; i < kWidth<double>; ++i) {
      const double product = scale[i] * rstd.high;
      a[at + i] = product + (std::fma(scale[i], rstd.high, -product) + scale[i] * rstd.low);
      b[at + i] = std::fma(-rest, a[at + i], bias[i]);
    }
  }
};

// The functions of one activation, so that only they are compiled once per activation.
template <typename T>
struct RowWriter {
  using W = Wide<T>;
  // `rows` rows of `count` elements, one after the other, each of a channel of its own.
  // While they are written, what lies `ahead` elements behind is fetched.
  void (*rows)(const T* x, T* y, std::int64_t rows, std::int64_t count, const ChannelParameters<W>& parameters, W alpha,
               std::int64_t ahead);
  // `rows` rows, `stride` elements apart, of `width` channels.
  void (*channels)(const T* x, T* y, std::int64_t rows, std::int64_t stride, std::int64_t width,
                   const ChannelParameters<W>& parameters, W alpha);
  W alpha;
  bool streams;
};

template <typename T>
inline constexpr std::int64_t kBlock = kBlockVectors<T> * kWidth<Wide<T>>;  // elements

// How many elements from y on the next whole block of memory begins.
template <typename T>
inline std::int64_t elements_to_boundary(const T* y) {
  constexpr std::uintptr_t kBytes = static_cast<std::uintptr_t>(kBlock<T>) * sizeof(T);
  return static_cast<std::int64_t>((kBytes - reinterpret_cast<std::uintptr_t>(y) % kBytes) % kBytes / sizeof(T));
}

// A row of at least one vector. The last vector overlaps the one before it; with kAligned the first blocks overlap too,
// so that the others cross no boundary.
template <typename T, bool kStream, bool kAhead, bool kAligned, typename Result>
GN_INLINE void write_row(const T* x, T* y, std::int64_t count, std::int64_t ahead, const Result& result) {
  using W = Wide<T>;
  const auto result_at = [&](const T* p) {
    Block<T> block = load_block(p);
    for (Vector<W>& v : block.vectors) v = result(v);
    return block;
  };
  const std::int64_t last = count - kWidth<W>;
  const Vector<W> tail = result(load(x + last));
  std::int64_t i = 0;
  if (const std::int64_t begin = kAligned ? elements_to_boundary(y) : 0; begin > 0) {
    const Block<T> head = result_at(x);
    const Block<T> next = result_at(x + begin);  // before what it overlaps is stored
    store_block(y, head);
    store_block(y + begin, next);
    i = begin + kBlock<T>;
  }
  for (; i < count - kBlock<T>; i += kBlock<T>) {
    if constexpr (kAhead && kAligned) prefetch(x + i, ahead);
    store_block<kStream && kAligned>(y + i, result_at(x + i));
  }
  if (i < last) store(y + i, result(load(x + i)));
  store(y + last, tail);
}

template <typename T, Activation kActivation, bool kStream>
void write_rows(const T* x, T* y, std::int64_t rows, std::int64_t count, const ChannelParameters<Wide<T>>& parameters,
                Wide<T> alpha, std::int64_t ahead) {
  using W = Wide<T>;
  // Where writing leaves memory idle: past the caches it waits for stores, with an exponential for the arithmetic.
  constexpr bool kAhead = kStream || kActivation == Activation::kSilu;
  constexpr std::int64_t kLongRow = 8 * kWidth<W>;  // stores that cross no boundary are worth two more of them
  const auto for_rows = [&](const auto& write) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const Vector<W> mean = broadcast(parameters.mean[r]);
      const Vector<W> a = broadcast(parameters.a[r]);
      const Vector<W> b = broadcast(parameters.b[r]);
      const auto result = [&](Vector<W> v) { return activate<kActivation, W>((v - mean) * a + b, alpha); };
      write(x + r * count, y + r * count, result);
    }
  };
  if (count < kWidth<W>) {
    for_rows([&](const T* from, T* to, const auto& result) {
      store_partial(to, result(load_partial(from, count, W{0})), count);
    });
  } else if (count < kLongRow) {
    for_rows([&](const T* from, T* to, const auto& result) {
      write_row<T, kStream, kAhead, false>(from, to, count, ahead, result);
    });
  } else {
    for_rows([&](const T* from, T* to, const auto& result) {
      write_row<T, kStream, kAhead, true>(from, to, count, ahead, result);
    });
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
