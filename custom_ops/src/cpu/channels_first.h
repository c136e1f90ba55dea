// x is [N, C, *spatial]: the D * S elements of a group are contiguous, its D channels rows of S elements.
//
// Work is cut in chunks of kChunkElements, whatever the number of threads. A group that stays in the cache is done by
// one task: statistics of its chunks in order, then the output. Otherwise one round of tasks takes the statistics of
// all chunks, and a second combines them in order and writes the output. Both do the same arithmetic in the same order.
#pragma once

#include "cpu/activation.h"
#include "cpu/moments.h"
#include "gn/group_norm_cpu.h"

namespace gn::GN_ISA {

inline constexpr std::int64_t kCachedGroupBytes =
    512 * 1024;                                        // a group up to this size is still in L2 when it is written
inline constexpr std::int64_t kTaskBytes = 32 * 1024;  // small groups are handed out several at a time

template <typename T, Activation kActivation>
class ChannelsFirst {
 public:
  using W = Wide<T>;

  ChannelsFirst(const GroupNormProblem& problem, const GroupNormBuffers& buffers, Moments* chunk_results)
      : problem_(problem),
        x_(static_cast<const T*>(buffers.x)),
        scale_(static_cast<const T*>(buffers.scale)),
        bias_(static_cast<const T*>(buffers.bias)),
        y_(static_cast<T*>(buffers.y)),
        chunk_results_(chunk_results),
        depth_(problem.channels / problem.num_groups),
        size_(depth_ * problem.spatial),
        groups_(problem.batch * problem.num_groups),
        chunks_((size_ + kChunkElements - 1) / kChunkElements),
        alpha_(static_cast<W>(problem.alpha)) {}

  void run(const Parallel& parallel) {
    const bool cached = size_ * static_cast<std::int64_t>(sizeof(T)) <= kCachedGroupBytes;
    if (chunks_ == 1 || (cached && groups_ >= kEnoughGroups)) {
      per_task_ = std::max<std::int64_t>(1, kTaskBytes / (size_ * static_cast<std::int64_t>(sizeof(T))));
      dispatch(parallel, (groups_ + per_task_ - 1) / per_task_, &ChannelsFirst::whole_groups);
      return;
    }
    dispatch(parallel, groups_ * chunks_, &ChannelsFirst::one_chunk_moments);
    dispatch(parallel, groups_ * chunks_, &ChannelsFirst::one_chunk_output);
  }

 private:
  static constexpr std::int64_t kEnoughGroups = 8;  // fewer leave threads idle, so their chunks are shared out instead

  void dispatch(const Parallel& parallel, std::int64_t count, void (ChannelsFirst::*body)(std::int64_t)) {
    struct State {
      ChannelsFirst* self;
      void (ChannelsFirst::*body)(std::int64_t);
    } state{this, body};
    parallel.run(
        parallel.pool, static_cast<std::size_t>(count),
        [](void* opaque, std::size_t index) {
          auto* s = static_cast<State*>(opaque);
          (s->self->*(s->body))(static_cast<std::int64_t>(index));
        },
        &state);
  }

  std::int64_t chunk_begin(std::int64_t chunk) const { return chunk * kChunkElements; }
  std::int64_t chunk_end(std::int64_t chunk) const { return std::min(size_, (chunk + 1) * kChunkElements); }

  Moments moments_of_chunk(std::int64_t group, std::int64_t chunk) const {
    return chunk_moments(x_ + group * size_ + chunk_begin(chunk), chunk_end(chunk) - chunk_begin(chunk));
  }

  void whole_groups(std::int64_t task) {
    const std::int64_t end = std::min(groups_, (task + 1) * per_task_);
    for (std::int64_t group = task * per_task_; group < end; ++group) {
      Moments total;
      for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) total = combine(total, moments_of_chunk(group, chunk));
      write(group, normaliser(total, problem_.epsilon), 0, size_);
    }
  }

  void one_chunk_moments(std::int64_t index) {
    chunk_results_[index] = moments_of_chunk(index / chunks_, index % chunks_);
  }

  // From the last chunk to the first: the cache still holds the end of what was read.
  void one_chunk_output(std::int64_t index) {
    const std::int64_t group = groups_ - 1 - index / chunks_;
    const std::int64_t chunk = chunks_ - 1 - index % chunks_;
    Moments total;
    for (std::int64_t c = 0; c < chunks_; ++c) total = combine(total, chunk_results_[group * chunks_ + c]);
    write(group, normaliser(total, problem_.epsilon), chunk_begin(chunk), chunk_end(chunk));
  }

  // Elements [begin, end) of a group.
  void write(std::int64_t group, const Normaliser& normal, std::int64_t begin, std::int64_t end) {
    const std::int64_t first_channel = (group % problem_.num_groups) * depth_;
    const T* x = x_ + group * size_;
    T* y = y_ + group * size_;
    const auto mean = static_cast<W>(normal.mean);
    const double mean_rest = normal.mean - static_cast<double>(mean);
    if (problem_.spatial == 1) {
      write_channels(x, y, first_channel, mean, mean_rest, normal.rstd, begin, end);
      return;
    }
    while (begin < end) {
      const std::int64_t channel = first_channel + begin / problem_.spatial;
      const std::int64_t row_end = std::min(end, (begin / problem_.spatial + 1) * problem_.spatial);
      const double a = static_cast<double>(load_one(scale_ + channel)) * normal.rstd;
      const double b = static_cast<double>(load_one(bias_ + channel)) - mean_rest * a;
      write_row(x + begin, y + begin, row_end - begin, mean, static_cast<W>(a), static_cast<W>(b));
      begin = row_end;
    }
  }

  void write_row(const T* x, T* y, std::int64_t count, W mean, W a, W b) const {
    std::int64_t i = 0;
    for (; i + kWidth<W> <= count; i += kWidth<W>) {
      store(y + i, activate<kActivation, W>((load(x + i) - mean) * a + b, alpha_));
    }
    if (i < count) {
      const Vector<W> v = load_partial(x + i, count - i, mean);
      store_partial(y + i, activate<kActivation, W>((v - mean) * a + b, alpha_), count - i);
    }
  }

  // Spatial size 1: every element has a channel of its own.
  void write_channels(const T* x, T* y, std::int64_t first_channel, W mean, double mean_rest, double rstd,
                      std::int64_t begin, std::int64_t end) const {
    const auto factor = static_cast<W>(rstd);
    const auto rest = static_cast<W>(mean_rest);
    for (std::int64_t i = begin; i < end; i += kWidth<W>) {
      const std::int64_t count = std::min<std::int64_t>(kWidth<W>, end - i);
      const bool full = count == kWidth<W>;
      const T* gamma = scale_ + first_channel + i;
      const T* beta = bias_ + first_channel + i;
      const Vector<W> v = full ? load(x + i) : load_partial(x + i, count, mean);
      const Vector<W> a = (full ? load(gamma) : load_partial(gamma, count, W{0})) * factor;
      const Vector<W> b = (full ? load(beta) : load_partial(beta, count, W{0})) - rest * a;
      const Vector<W> out = activate<kActivation, W>((v - mean) * a + b, alpha_);
      if (full) {
        store(y + i, out);
      } else {
        store_partial(y + i, out, count);
      }
    }
  }

  const GroupNormProblem& problem_;
  const T* x_;
  const T* scale_;
  const T* bias_;
  T* y_;
  Moments* chunk_results_;
  std::int64_t depth_;   // channels in a group
  std::int64_t size_;    // elements in a group
  std::int64_t groups_;  // over the whole batch
  std::int64_t chunks_;  // in a group
  std::int64_t per_task_ = 1;
  W alpha_;
};

}  // namespace gn::GN_ISA
