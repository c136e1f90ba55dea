// x is [N, *spatial, C]: a group is D neighbouring channels of every row of C.
//
// A chunk is a fixed number of rows; its statistics are taken for a slab of groups at a time, as sums of deviations
// from one shift per group, lane by lane for vectors of channels and then channel by channel in order. The chunks of a
// group are combined in order. Tasks work on a window of samples at a time that stays in the last-level cache between
// the two looks at it.
#pragma once

#include <numeric>

#include "cpu/column_sums.h"
#include "cpu/kernels.h"
#include "cpu/moments.h"
#include "cpu/rows.h"
#include "cpu/tasks.h"

namespace gn::GN_ISA {

struct ChannelsLastPlan {
  explicit ChannelsLastPlan(const GroupNormProblem& problem) : depth(problem.channels / problem.num_groups) {
    // Adding up the lanes is small beside 64 rows, and the rest that is done once per group beside 512 elements.
    const std::int64_t min_rows = std::max<std::int64_t>(64, 512 / depth);
    constexpr std::int64_t kWindow = std::int64_t{1} << 21;  // elements
    rows = std::min(problem.spatial, std::max(min_rows, 4 * kChunkElements / problem.channels));
    chunks = (problem.spatial + rows - 1) / rows;
    slab = std::clamp<std::int64_t>(2 * kChunkElements / (rows * depth), 1, std::min(problem.num_groups, kSlabGroups));
    slabs = (problem.num_groups + slab - 1) / slab;
    window = std::clamp<std::int64_t>(kWindow / (problem.spatial * problem.channels), 1, problem.batch);
    workspace_bytes = static_cast<std::size_t>(window * problem.num_groups) *
                      (static_cast<std::size_t>(chunks) * sizeof(Moments) + sizeof(Normaliser));
  }

  std::int64_t depth;   // channels in a group
  std::int64_t rows;    // in a chunk
  std::int64_t chunks;  // in a sample
  std::int64_t slab;    // groups whose statistics are taken together
  std::int64_t slabs;   // in a sample
  std::int64_t window;  // samples that are worked on together
  std::size_t workspace_bytes;
};

template <typename T>
class ChannelsLast {
 public:
  using W = Wide<T>;

  ChannelsLast(const GroupNormProblem& problem, const GroupNormBuffers& buffers)
      : problem_(problem),
        plan_(problem),
        x_(static_cast<const T*>(buffers.x)),
        scale_(static_cast<const T*>(buffers.scale)),
        bias_(static_cast<const T*>(buffers.bias)),
        y_(static_cast<T*>(buffers.y)) {}

  void run(void* workspace, const Parallel& parallel, const RowWriter<T>& writer) const {
    auto* moments = static_cast<Moments*>(workspace);
    auto* normalisers = reinterpret_cast<Normaliser*>(moments + plan_.window * problem_.num_groups * plan_.chunks);
    for (std::int64_t first = 0; first < problem_.batch; first += plan_.window) {
      run_window(first, std::min(plan_.window, problem_.batch - first), moments, normalisers, parallel, writer);
    }
  }

 private:
  // moments: [samples, G, chunks], normalisers: [samples, G].
  void run_window(std::int64_t first, std::int64_t samples, Moments* moments, Normaliser* normalisers,
                  const Parallel& parallel, const RowWriter<T>& writer) const {
    const std::int64_t chunks = plan_.chunks;
    const std::int64_t groups = problem_.num_groups;
    for_each(parallel, samples * chunks * plan_.slabs, plan_.rows * plan_.slab * plan_.depth, [&](std::int64_t i) {
      const std::int64_t slab = i % plan_.slabs;
      const std::int64_t chunk = i / plan_.slabs % chunks;
      const std::int64_t sample = i / plan_.slabs / chunks;
      slab_moments(first + sample, chunk, slab, moments + sample * groups * chunks + chunk);
    });
    for_each(parallel, samples * groups, chunks * kCombineElements, [&](std::int64_t group) {
      Moments total;
      for (std::int64_t c = 0; c < chunks; ++c) total = combine(total, moments[group * chunks + c]);
      normalisers[group] = normaliser<W>(total, problem_.epsilon);
    });
    // Every task begins with the parameters of its channels: blocks of them, unless rows are to be streamed whole.
    const std::int64_t width = writer.streams ? problem_.channels : std::min(kParameterChannels, problem_.channels);
    const std::int64_t blocks = (problem_.channels + width - 1) / width;
    const std::int64_t rows = output_rows(samples, width);
    const std::int64_t tasks = (problem_.spatial + rows - 1) / rows * blocks;
    for_each(parallel, samples * tasks, rows * width, [&](std::int64_t i) {
      const std::int64_t sample = samples - 1 - i / tasks;  // the cache still holds the end of what was read
      const std::int64_t task = tasks - 1 - i % tasks;
      const std::int64_t begin = task / blocks * rows;
      const std::int64_t channel = task % blocks * width;
      write(writer, first + sample, begin, std::min(problem_.spatial, begin + rows), channel,
            std::min(problem_.channels, channel + width), normalisers + sample * groups);
    });
  }

  // Rows of `width` channels that one task writes: many, but some for every thread.
  std::int64_t output_rows(std::int64_t samples, std::int64_t width) const {
    constexpr std::int64_t kMaxElements = 131072;
    const std::int64_t share = samples * problem_.spatial * problem_.channels / (2 * hardware_threads());
    return std::max<std::int64_t>(1, std::clamp(share, 2 * kTaskElements, kMaxElements) / width);
  }

  // Moments of the groups of one slab over the rows of one chunk; `moments` is [G, chunks] from this chunk on.
  void slab_moments(std::int64_t sample, std::int64_t chunk, std::int64_t slab, Moments* moments) const {
    const std::int64_t begin = chunk * plan_.rows;
    const std::int64_t rows = std::min(problem_.spatial - begin, plan_.rows);
    const std::int64_t group = slab * plan_.slab;
    const std::int64_t groups = std::min(plan_.slab, problem_.num_groups - group);
    const T* x = x_ + (sample * problem_.spatial + begin) * problem_.channels + group * plan_.depth;
    const T* end = x_ + problem_.batch * problem_.spatial * problem_.channels;
    Moments result[kSlabGroups];
    ColumnSums<T>(x, end, rows, problem_.channels, plan_.depth, groups).moments(result);
    for (std::int64_t g = 0; g < groups; ++g) moments[(group + g) * plan_.chunks] = result[g];
  }

  // Channels [channel, channel_end) of rows [begin, end) of a sample.
  void write(const RowWriter<T>& writer, std::int64_t sample, std::int64_t begin, std::int64_t end,
             std::int64_t channel, std::int64_t channel_end, const Normaliser* normalisers) const {
    ChannelParameters<W> parameters;
    const std::int64_t channels = problem_.channels;
    const std::int64_t row = (sample * problem_.spatial + begin) * channels;
    for (std::int64_t first = channel; first < channel_end; first += kParameterChannels) {
      const std::int64_t width = std::min(kParameterChannels, channel_end - first);
      for (std::int64_t c = first; c < first + width;) {
        const std::int64_t group = c / plan_.depth;
        const std::int64_t count = std::min((group + 1) * plan_.depth, first + width) - c;
        parameters.set(c - first, count, normalisers[group], scale_ + c, bias_ + c);
        c += count;
      }
      const T* x = x_ + row + first;
      T* y = y_ + row + first;
      std::int64_t rows = end - begin;
      if (const std::int64_t fold = rows_that_fill_vectors(); fold > 1) {
        parameters.repeat(channels, fold);
        const std::int64_t folded = rows / fold;
        writer.channels(x, y, folded, fold * channels, fold * channels, parameters, writer.alpha);
        x += folded * fold * channels;
        y += folded * fold * channels;
        rows -= folded * fold;
      }
      writer.channels(x, y, rows, channels, width, parameters, writer.alpha);
    }
    if (writer.streams) end_of_stream();
  }

  // So many rows of few channels are as one row of many, which leaves no vector half full. 1: there is no such number.
  std::int64_t rows_that_fill_vectors() const {
    const std::int64_t fold = kWidth<W> / std::gcd<std::int64_t>(kWidth<W>, problem_.channels);
    return fold * problem_.channels <= kParameterChannels ? fold : 1;
  }

  const GroupNormProblem& problem_;
  ChannelsLastPlan plan_;
  const T* x_;
  const T* scale_;
  const T* bias_;
  T* y_;
};

}  // namespace gn::GN_ISA
