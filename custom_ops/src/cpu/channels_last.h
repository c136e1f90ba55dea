// x is [N, *spatial, C]: a group is D neighbouring channels of every row of C.
//
// A chunk is a fixed number of whole rows. Its statistics are taken column by column, a vector of channels at a time,
// as sums of deviations from one shift for the chunk's group; the columns of a group are then added in order. One round
// of tasks does this for all chunks, a second combines them in order and writes the output, channels vectorised.
#pragma once

#include "cpu/activation.h"
#include "cpu/moments.h"
#include "gn/group_norm_cpu.h"

namespace gn::GN_ISA {

template <typename T, Activation kActivation>
class ChannelsLast {
 public:
  using W = Wide<T>;

  static std::int64_t rows_per_chunk(const GroupNormProblem& problem) {
    return std::max<std::int64_t>(kMinRows, kChunkElements / std::max<std::int64_t>(problem.channels, 1));
  }

  ChannelsLast(const GroupNormProblem& problem, const GroupNormBuffers& buffers, Moments* chunk_results)
      : problem_(problem),
        x_(static_cast<const T*>(buffers.x)),
        scale_(static_cast<const T*>(buffers.scale)),
        bias_(static_cast<const T*>(buffers.bias)),
        y_(static_cast<T*>(buffers.y)),
        chunk_results_(chunk_results),
        depth_(problem.channels / problem.num_groups),
        rows_(rows_per_chunk(problem)),
        chunks_((problem.spatial + rows_ - 1) / rows_),
        alpha_(static_cast<W>(problem.alpha)) {}

  void run(const Parallel& parallel) {
    dispatch(parallel, &ChannelsLast::moments_of_chunk);
    dispatch(parallel, &ChannelsLast::output_of_chunk);
  }

 private:
  static constexpr std::int64_t kMinRows = 16;
  static constexpr std::int64_t kRowRun = 32;  // rows per lane sum, then into double
  static constexpr std::int64_t kBlock = 256;  // channels whose sums are held at a time

  void dispatch(const Parallel& parallel, void (ChannelsLast::*body)(std::int64_t)) {
    struct State {
      ChannelsLast* self;
      void (ChannelsLast::*body)(std::int64_t);
    } state{this, body};
    parallel.run(
        parallel.pool, static_cast<std::size_t>(problem_.batch * chunks_),
        [](void* opaque, std::size_t index) {
          auto* s = static_cast<State*>(opaque);
          (s->self->*(s->body))(static_cast<std::int64_t>(index));
        },
        &state);
  }

  const T* row(std::int64_t sample, std::int64_t position) const {
    return x_ + (sample * problem_.spatial + position) * problem_.channels;
  }

  // Moments of every group over the rows of one chunk, to chunk_results_[(sample * chunks_ + chunk) * G + group].
  void moments_of_chunk(std::int64_t index) {
    const std::int64_t sample = index / chunks_;
    const std::int64_t begin = index % chunks_ * rows_;
    const std::int64_t end = std::min(problem_.spatial, begin + rows_);
    for (std::int64_t group = 0; group < problem_.num_groups; ++group) {
      chunk_results_[index * problem_.num_groups + group] = group_moments(sample, group * depth_, begin, end);
    }
  }

  Moments group_moments(std::int64_t sample, std::int64_t channel, std::int64_t begin, std::int64_t end) const {
    Moments moments;
    const W shift = sample_of_group(sample, channel, begin, end);
    const double count = static_cast<double>(depth_) * static_cast<double>(end - begin);
    if (!moments_of(group_deviations(sample, channel, begin, end, shift), static_cast<double>(shift), count,
                    &moments)) {
      const auto mean = static_cast<W>(moments.mean);
      moments_of(group_deviations(sample, channel, begin, end, mean), static_cast<double>(mean), count, &moments);
    }
    return moments;
  }

  W sample_of_group(std::int64_t sample, std::int64_t channel, std::int64_t begin, std::int64_t end) const {
    const std::int64_t elements = depth_ * (end - begin);
    const std::int64_t taken = std::min(elements, kSample);
    const std::int64_t stride = elements / taken;
    double sum = 0.0;
    for (std::int64_t i = 0; i < taken; ++i) {
      const std::int64_t element = i * stride;
      sum += static_cast<double>(load_one(row(sample, begin + element / depth_) + channel + element % depth_));
    }
    return static_cast<W>(sum / static_cast<double>(taken));
  }

  Deviations<W> group_deviations(std::int64_t sample, std::int64_t channel, std::int64_t begin, std::int64_t end,
                                 W shift) const {
    Deviations<W> out;
    for (std::int64_t c = 0; c < depth_; c += kWidth<W>) {
      const std::int64_t width = std::min<std::int64_t>(kWidth<W>, depth_ - c);
      for (std::int64_t r = begin; r < end; r += kRowRun) {
        const std::int64_t run_end = std::min(end, r + kRowRun);
        Vector<W> sum = {};
        Vector<W> squares = {};
        for (std::int64_t i = r; i < run_end; ++i) {
          const T* p = row(sample, i) + channel + c;
          const Vector<W> d = (width == kWidth<W> ? load(p) : load_partial(p, width, shift)) - shift;
          sum += d;
          squares += d * d;
        }
        out.sum.add(lane_sum(widened(sum)));
        out.squares.add(lane_sum(widened(squares)));
      }
    }
    return out;
  }

  void output_of_chunk(std::int64_t index) {
    const std::int64_t sample = index / chunks_;
    const std::int64_t begin = index % chunks_ * rows_;
    const std::int64_t end = std::min(problem_.spatial, begin + rows_);
    W mean[kBlock];
    W a[kBlock];
    W b[kBlock];
    for (std::int64_t first = 0; first < problem_.channels; first += kBlock) {
      const std::int64_t width = std::min(kBlock, problem_.channels - first);
      parameters(sample, first, width, mean, a, b);
      for (std::int64_t r = begin; r < end; ++r) {
        const T* x = row(sample, r) + first;
        write_row(x, y_ + (x - x_), width, mean, a, b);
      }
    }
  }

  // mean, a and b of `width` channels from `first` on.
  void parameters(std::int64_t sample, std::int64_t first, std::int64_t width, W* mean, W* a, W* b) const {
    std::int64_t group = -1;
    Normaliser normal;
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t channel = first + c;
      if (channel / depth_ != group) {
        group = channel / depth_;
        Moments total;
        for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
          total = combine(total, chunk_results_[(sample * chunks_ + chunk) * problem_.num_groups + group]);
        }
        normal = normaliser(total, problem_.epsilon);
      }
      mean[c] = static_cast<W>(normal.mean);
      const double factor = static_cast<double>(load_one(scale_ + channel)) * normal.rstd;
      a[c] = static_cast<W>(factor);
      const double rest = normal.mean - static_cast<double>(mean[c]);
      b[c] = static_cast<W>(static_cast<double>(load_one(bias_ + channel)) - rest * factor);
    }
  }

  void write_row(const T* x, T* y, std::int64_t count, const W* mean, const W* a, const W* b) const {
    std::int64_t i = 0;
    for (; i + kWidth<W> <= count; i += kWidth<W>) {
      store(y + i, activate<kActivation, W>((load(x + i) - load(mean + i)) * load(a + i) + load(b + i), alpha_));
    }
    if (i < count) {
      const std::int64_t left = count - i;
      const Vector<W> v = load_partial(x + i, left, W{0}) - load_partial(mean + i, left, W{0});
      const Vector<W> out = v * load_partial(a + i, left, W{0}) + load_partial(b + i, left, W{0});
      store_partial(y + i, activate<kActivation, W>(out, alpha_), left);
    }
  }

  const GroupNormProblem& problem_;
  const T* x_;
  const T* scale_;
  const T* bias_;
  T* y_;
  Moments* chunk_results_;
  std::int64_t depth_;   // channels in a group
  std::int64_t rows_;    // in a chunk
  std::int64_t chunks_;  // in a sample
  W alpha_;
};

}  // namespace gn::GN_ISA
