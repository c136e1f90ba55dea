// Moments of neighbouring groups of columns over some rows, for channels-last data.
#pragma once

#include "cpu/moments.h"

namespace gn::GN_ISA {

inline constexpr std::int64_t kSlabGroups = 128;

template <typename T>
class ColumnSums {
 public:
  using W = Wide<T>;

  // x: `rows` rows, `stride` elements apart, of `groups` groups of `depth` channels each; nothing is read from `end`
  // on.
  ColumnSums(const T* x, const T* end, std::int64_t rows, std::int64_t stride, std::int64_t depth, std::int64_t groups)
      : x_(x), end_(end), rows_(rows), stride_(stride), depth_(depth), groups_(groups) {}

  // Of each group, to result[0 .. groups).
  void moments(Moments* result) {
    sample_means();
    const auto count = static_cast<double>(rows_) * static_cast<double>(depth_);
    if (take(count, result)) return;
    for (std::int64_t g = 0; g < groups_; ++g) shift_[g] = static_cast<W>(result[g].mean.high);
    take(count, result);
  }

 private:
  static constexpr int kSide = kVectorBytes == 64 ? 2 : 1;  // vectors side by side, by the number of registers
  static constexpr int kLanes = kSide * kWidth<W>;
  static constexpr int kRows = kColumns;  // at once

  static constexpr std::int64_t kStrip = 256;          // columns summed together: their sums stay in the first cache
  static constexpr std::int64_t kTile = kRun * kRows;  // rows

  // True when every shift was near enough to its group's mean.
  bool take(double count, Moments* result) {
    for (std::int64_t g = 0; g < groups_; ++g) sums_[g] = squares_[g] = {};
    for_strips([&](std::int64_t first, std::int64_t width) { add_strip(first, width); });
    bool near = true;
    for (std::int64_t g = 0; g < groups_; ++g) {
      const Deviations d{sums_[g].total(), squares_[g].total()};
      near = moments_of(d, static_cast<double>(shift_[g]), count, result + g) && near;
    }
    return near;
  }

  // Shifts near the means of the groups: of their channels in a few rows.
  void sample_means() {
    const std::int64_t taken = std::min<std::int64_t>(rows_, 4 + 16 / depth_);
    double sums[kSlabGroups] = {};
    for_strips([&](std::int64_t first, std::int64_t width) {
      W columns[kStrip];
      for (std::int64_t c = 0; c < width; c += kWidth<W>) {
        Vector<W> sum = {};
        for (std::int64_t i = 0; i < taken; ++i) {
          const T* p = x_ + i * rows_ / taken * stride_ + first + c;
          sum += width - c >= kWidth<W> ? load(p) : row_vector<false>(p, width - c);
        }
        store(columns + c, sum);
      }
      for_groups(first, width, [&](std::int64_t group, std::int64_t begin, std::int64_t end) {
        double sum = 0.0;
        for (std::int64_t c = begin; c < end; ++c) sum += static_cast<double>(columns[c]);
        sums[group] += sum;
      });
    });
    const double factor = 1.0 / static_cast<double>(taken * depth_);
    for (std::int64_t g = 0; g < groups_; ++g) shift_[g] = static_cast<W>(sums[g] * factor);
  }

  // Adds `width` columns from `first` on to their groups. A few rows at a time, so that memory is read in order.
  void add_strip(std::int64_t first, std::int64_t width) {
    W shift[kStrip] = {};
    for_groups(first, width, [&](std::int64_t group, std::int64_t begin, std::int64_t end) {
      std::fill(shift + begin, shift + end, shift_[group]);
    });
    constexpr std::int64_t kVectors = kStrip / kWidth<W>;
    LaneSums<W> sums[kVectors];
    LaneSums<W> squares[kVectors];
    for (std::int64_t r = 0; r < rows_; r += kTile) {
      const T* x = x_ + r * stride_ + first;
      const std::int64_t rows = std::min(rows_ - r, kTile);
      std::int64_t c = 0;
      const auto block = [&]<int kVectors, bool kWhole>() {
        const std::int64_t v = c / kWidth<W>;
        add_block<kVectors, kWhole>(x + c, rows, width - c, shift + c, sums + v, squares + v);
        c += kVectors * kWidth<W>;
      };
      while (width - c >= kLanes) block.template operator()<kSide, true>();
      while (width - c >= kWidth<W>) block.template operator()<1, true>();
      if (c < width) block.template operator()<1, false>();
    }
    double sum_of[kStrip];
    double square_of[kStrip];
    for (std::int64_t c = 0; c < width; c += kWidth<W>) {
      sums[c / kWidth<W>].store(sum_of + c);
      squares[c / kWidth<W>].store(square_of + c);
    }
    for_groups(first, width, [&](std::int64_t group, std::int64_t begin, std::int64_t end) {
      LongSum<W> sum = sums_[group];
      LongSum<W> square = squares_[group];
      for (std::int64_t c = begin; c < end; ++c) {
        sum.add(sum_of[c]);
        square.add(square_of[c]);
      }
      sums_[group] = sum;
      squares_[group] = square;
    });
  }

  // Adds `rows` rows, at most kTile, of kVectors vectors of columns, kRows rows at once. Where the columns do not fill
  // the vectors (kWhole), `width` are left.
  template <int kVectors, bool kWhole>
  GN_INLINE void add_block(const T* x, std::int64_t rows, std::int64_t width, const W* shift, LaneSums<W>* sums,
                           LaneSums<W>* squares) const {
    Vector<W> center[kVectors];
    for (int v = 0; v < kVectors; ++v) center[v] = load(shift + v * kWidth<W>);
    Vector<W> sum[kVectors * kRows] = {};
    Vector<W> square[kVectors * kRows] = {};
    std::int64_t r = 0;
    for (; r + kRows <= rows; r += kRows) {
      for (int k = 0; k < kVectors * kRows; ++k) {
        const int v = k % kVectors;
        const Vector<W> d = row_vector<kWhole>(x + (r + k / kVectors) * stride_ + v * kWidth<W>, width) - center[v];
        sum[k] += d;
        square[k] += d * d;
      }
    }
    for (; r < rows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        const Vector<W> d = row_vector<kWhole>(x + r * stride_ + v * kWidth<W>, width) - center[v];
        sum[v] += d;
        square[v] += d * d;
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      for (int k = 1; k < kRows; ++k) {
        sum[v] += sum[v + k * kVectors];
        square[v] += square[v + k * kVectors];
      }
      sums[v].add(sum[v]);
      squares[v].add(square[v]);
    }
  }

  // A vector of a row. Beyond the channels that are asked for it holds whatever follows them, where there is anything.
  template <bool kWhole>
  Vector<W> row_vector(const T* p, std::int64_t width) const {
    if (kWhole || end_ - p >= kWidth<W>) return load(p);
    return load_partial(p, width, W{0});
  }

  // body(first, width) for all columns.
  template <typename Body>
  void for_strips(const Body& body) const {
    const std::int64_t width = groups_ * depth_;
    for (std::int64_t first = 0; first < width; first += kStrip) body(first, std::min(kStrip, width - first));
  }

  // body(group, begin, end) for the groups of columns [first, first + width), of which theirs are first + [begin, end).
  template <typename Body>
  void for_groups(std::int64_t first, std::int64_t width, const Body& body) const {
    std::int64_t group = first / depth_;
    for (std::int64_t begin = 0; begin < width; ++group) {
      const std::int64_t end = std::min(width, (group + 1) * depth_ - first);
      body(group, begin, end);
      begin = end;
    }
  }

  const T* x_;
  const T* end_;
  std::int64_t rows_;
  std::int64_t stride_;
  std::int64_t depth_;
  std::int64_t groups_;
  W shift_[kSlabGroups];
  LongSum<W> sums_[kSlabGroups];
  LongSum<W> squares_[kSlabGroups];
};

}  // namespace gn::GN_ISA
