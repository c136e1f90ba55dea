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
    for (std::int64_t g = 0; g < groups_; ++g) shift_[g] = sample_mean_of_group(g);
    const auto count = static_cast<double>(rows_) * static_cast<double>(depth_);
    if (take(count, result)) return;
    for (std::int64_t g = 0; g < groups_; ++g) shift_[g] = static_cast<W>(result[g].mean.high);
    take(count, result);
  }

 private:
  static constexpr int kLanes = kColumns * kWidth<W>;

  // True when every shift was near enough to its group's mean.
  bool take(double count, Moments* result) {
    for (std::int64_t g = 0; g < groups_; ++g) sums_[g] = squares_[g] = {};
    std::int64_t c = 0;
    const std::int64_t width = groups_ * depth_;
    for (; c + kLanes <= width; c += kLanes) add_block<kColumns, 1, true>(c, kLanes);
    for (; c + kWidth<W> <= width; c += kWidth<W>) add_block<1, kColumns, true>(c, kWidth<W>);
    if (c < width) add_block<1, kColumns, false>(c, width - c);
    bool near = true;
    for (std::int64_t g = 0; g < groups_; ++g) {
      const Deviations d{sums_[g].total(), squares_[g].total()};
      near = moments_of(d, static_cast<double>(shift_[g]), count, result + g) && near;
    }
    return near;
  }

  // A value near the mean of a group: of its channels in a few rows.
  W sample_mean_of_group(std::int64_t group) const {
    const std::int64_t taken = std::min<std::int64_t>(rows_, 2 + 16 / depth_);
    double sum = 0.0;
    for (std::int64_t i = 0; i < taken; ++i) {
      const T* row = x_ + i * rows_ / taken * stride_ + group * depth_;
      for (std::int64_t c = 0; c < depth_; ++c) sum += static_cast<double>(to_wide(row[c]));
    }
    return static_cast<W>(sum / static_cast<double>(taken * depth_));
  }

  // Adds `width` channels from `first` on to their groups: kVectors vectors side by side, kRows rows at once. kWhole:
  // the channels fill the vectors.
  template <int kVectors, int kRows, bool kWhole>
  void add_block(std::int64_t first, std::int64_t width) {
    W shift[kVectors * kWidth<W>] = {};
    for_groups(first, width, [&](std::int64_t group, std::int64_t lane) { shift[lane] = shift_[group]; });
    Vector<W> center[kVectors];
    for (int v = 0; v < kVectors; ++v) center[v] = load(shift + v * kWidth<W>);
    LaneSums<W> sums[kVectors];
    LaneSums<W> squares[kVectors];
    const T* x = x_ + first;
    for (std::int64_t r = 0; r < rows_;) {
      const std::int64_t run_end = std::min<std::int64_t>(rows_, r + kRun * kRows);
      Vector<W> sum[kVectors * kRows] = {};
      Vector<W> square[kVectors * kRows] = {};
      for (; r + kRows <= run_end; r += kRows) {
        for (int k = 0; k < kVectors * kRows; ++k) {
          const int v = k % kVectors;
          const Vector<W> d = row_vector<kWhole>(x + (r + k / kVectors) * stride_ + v * kWidth<W>, width) - center[v];
          sum[k] += d;
          square[k] += d * d;
        }
      }
      for (; r < run_end; ++r) {
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
    for_groups(first, width, [&](std::int64_t group, std::int64_t lane) {
      const auto v = static_cast<std::size_t>(lane / kWidth<W>);
      sums_[group].add(sums[v].lane(static_cast<int>(lane % kWidth<W>)));
      squares_[group].add(squares[v].lane(static_cast<int>(lane % kWidth<W>)));
    });
  }

  // A vector of a row. Beyond the channels that are asked for it holds whatever follows them, where there is anything.
  template <bool kWhole>
  Vector<W> row_vector(const T* p, std::int64_t width) const {
    if (kWhole || end_ - p >= kWidth<W>) return load(p);
    return load_partial(p, width, W{0});
  }

  // body(group, channel - first) for the channels [first, first + width).
  template <typename Body>
  void for_groups(std::int64_t first, std::int64_t width, const Body& body) const {
    std::int64_t group = first / depth_;
    std::int64_t left = (group + 1) * depth_ - first;
    for (std::int64_t lane = 0; lane < width; ++lane, --left) {
      if (left == 0) {
        ++group;
        left = depth_;
      }
      body(group, lane);
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
