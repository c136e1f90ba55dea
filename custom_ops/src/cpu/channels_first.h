// x is [N, C, *spatial]: the D * S elements of a group are contiguous, its D channels rows of S elements.
//
// The statistics of a group are those of its chunks of kChunkElements, combined in order. A group that a cache holds is
// done by one task: statistics, then the output. Where there are too few groups for that, or one is too large, tasks
// are single chunks, for a window of groups at a time that stays in the last-level cache between the two looks at it.
// Both do the same arithmetic in the same order.
#pragma once

#include <optional>

#include "cpu/kernels.h"
#include "cpu/moments.h"
#include "cpu/rows.h"
#include "cpu/tasks.h"

namespace gn::GN_ISA {

// How the work is cut; a function of the problem and the machine.
struct ChannelsFirstPlan {
  explicit ChannelsFirstPlan(const GroupNormProblem& problem)
      : depth(problem.channels / problem.num_groups),
        size(depth * problem.spatial),
        groups(problem.batch * problem.num_groups),
        chunks((size + kChunkElements - 1) / kChunkElements) {
    constexpr std::int64_t kGroupOfOneTask = std::int64_t{1} << 20;  // elements; 4 MB of float
    constexpr std::int64_t kWindow = std::int64_t{1} << 21;
    if (chunks == 1 || (size <= kGroupOfOneTask && groups >= hardware_threads())) return;
    window = std::clamp<std::int64_t>(kWindow / size, 1, groups);
  }
  // How many tasks share the groups when each does whole ones: as many for every thread, several, and each with more
  // than one group where two of them fit in a core's cache.
  std::int64_t tasks() const {
    constexpr std::int64_t kHalfOfCache = std::int64_t{1} << 17;
    const std::int64_t threads = hardware_threads();
    const std::int64_t most = size <= kHalfOfCache ? std::max(4 * threads, groups / 4) : groups;
    const std::int64_t tasks = std::clamp<std::int64_t>(groups * size / kTaskElements, 1, std::min(groups, most));
    return tasks == 1 ? 1 : std::min(groups, (tasks + threads - 1) / threads * threads);
  }
  std::size_t workspace_bytes() const {
    return static_cast<std::size_t>(window) * (static_cast<std::size_t>(chunks) * sizeof(Moments) + sizeof(Normaliser));
  }

  std::int64_t depth;       // channels in a group
  std::int64_t size;        // elements in a group
  std::int64_t groups;      // in the whole batch
  std::int64_t chunks;      // in a group
  std::int64_t window = 0;  // groups whose chunks are handed out together; 0 when a task does a whole group
};

// While a group is written the next one is fetched, where a core's cache holds both.
inline constexpr std::int64_t kMostAhead = std::int64_t{1} << 17;  // elements
inline constexpr std::int64_t kNothingAhead = 0;

template <typename T>
class ChannelsFirst {
 public:
  using W = Wide<T>;

  ChannelsFirst(const GroupNormProblem& problem, const GroupNormBuffers& buffers)
      : problem_(problem),
        plan_(problem),
        x_(static_cast<const T*>(buffers.x)),
        scale_(static_cast<const T*>(buffers.scale)),
        bias_(static_cast<const T*>(buffers.bias)),
        y_(static_cast<T*>(buffers.y)) {}

  void run(void* workspace, const Parallel& parallel, const RowWriter<T>& writer) const {
    if (plan_.window == 0) {
      const std::int64_t tasks = plan_.tasks();
      for_each(parallel, tasks, kTaskElements,
               [&](std::int64_t i) { whole_groups(plan_.groups * i / tasks, plan_.groups * (i + 1) / tasks, writer); });
      return;
    }
    auto* moments = static_cast<Moments*>(workspace);
    auto* normalisers = reinterpret_cast<Normaliser*>(moments + plan_.window * plan_.chunks);
    for (std::int64_t first = 0; first < plan_.groups; first += plan_.window) {
      run_window(first, std::min(plan_.window, plan_.groups - first), moments, normalisers, parallel, writer);
    }
  }

 private:
  void whole_groups(std::int64_t begin, std::int64_t end, const RowWriter<T>& writer) const {
    if (plan_.chunks == 1) return groups_of_one_chunk(begin, end, writer);
    for (std::int64_t group = begin; group < end; ++group) {
      Moments total;
      for (std::int64_t c = 0; c < plan_.chunks; ++c) total = combine(total, moments_of_chunk(group, c));
      write(writer, group, normaliser<W>(total, problem_.epsilon), 0, plan_.size,
            plan_.size <= kMostAhead ? plan_.size : kNothingAhead);
    }
  }

  void groups_of_one_chunk(std::int64_t begin, std::int64_t end, const RowWriter<T>& writer) const {
    constexpr std::int64_t kMostTogether = 8;
    constexpr std::int64_t kElementsTogether = 8192;  // they stay in the first cache
    const std::int64_t together = std::clamp<std::int64_t>(kElementsTogether / plan_.size, 1, kMostTogether);
    for (; begin < end; begin += together) {
      const std::int64_t count = std::min(end - begin, together);
      std::optional<FirstLook<T>> looks[kMostTogether];
      for (std::int64_t i = 0; i < count; ++i) looks[i].emplace(x_ + (begin + i) * plan_.size, plan_.size);
      Normaliser normalisers[kMostTogether];
      for (std::int64_t i = 0; i < count; ++i) {
        normalisers[i] = normaliser<W>(looks[i]->moments(), problem_.epsilon);
      }
      for (std::int64_t i = 0; i < count; ++i) {
        write(writer, begin + i, normalisers[i], 0, plan_.size, together * plan_.size);
      }
    }
  }

  void run_window(std::int64_t first, std::int64_t groups, Moments* moments, Normaliser* normalisers,
                  const Parallel& parallel, const RowWriter<T>& writer) const {
    const std::int64_t chunks = plan_.chunks;
    for_each(parallel, groups * chunks, kChunkElements,
             [&](std::int64_t i) { moments[i] = moments_of_chunk(first + i / chunks, i % chunks); });
    for_each(parallel, groups, chunks * kCombineElements, [&](std::int64_t group) {
      Moments total;
      for (std::int64_t c = 0; c < chunks; ++c) total = combine(total, moments[group * chunks + c]);
      normalisers[group] = normaliser<W>(total, problem_.epsilon);
    });
    // From the last chunk to the first: the cache still holds the end of what was read.
    for_each(parallel, groups * chunks, kChunkElements, [&](std::int64_t i) {
      const std::int64_t group = groups - 1 - i / chunks;
      const std::int64_t chunk = chunks - 1 - i % chunks;
      write(writer, first + group, normalisers[group], chunk_begin(chunk), chunk_end(chunk), kNothingAhead);
    });
  }

  std::int64_t chunk_begin(std::int64_t chunk) const { return chunk * kChunkElements; }
  std::int64_t chunk_end(std::int64_t chunk) const { return std::min(plan_.size, (chunk + 1) * kChunkElements); }

  Moments moments_of_chunk(std::int64_t group, std::int64_t chunk) const {
    const T* begin = x_ + group * plan_.size + chunk_begin(chunk);
    return FirstLook<T>(begin, chunk_end(chunk) - chunk_begin(chunk)).moments();
  }

  // Elements [begin, end) of a group.
  void write(const RowWriter<T>& writer, std::int64_t group, const Normaliser& normal, std::int64_t begin,
             std::int64_t end, std::int64_t ahead) const {
    const std::int64_t first_channel = group % problem_.num_groups * plan_.depth;
    const T* x = x_ + group * plan_.size;
    T* y = y_ + group * plan_.size;
    if (problem_.spatial == 1) {
      write_channels(writer, x, y, first_channel, normal, begin, end);
    } else {
      write_rows(writer, x, y, first_channel, normal, begin, end, ahead);
    }
    if (writer.streams) end_of_stream();
  }

  void write_rows(const RowWriter<T>& writer, const T* x, T* y, std::int64_t first_channel, const Normaliser& normal,
                  std::int64_t begin, std::int64_t end, std::int64_t ahead) const {
    ChannelParameters<W> parameters;
    const auto rows_of = [&](std::int64_t channel, std::int64_t rows, std::int64_t count) {
      parameters.set(0, rows, normal, scale_ + channel, bias_ + channel);
      writer.rows(x + begin, y + begin, rows, count, parameters, writer.alpha, ahead);
      begin += rows * count;
    };
    if (begin == 0 && end == plan_.size) {
      for (std::int64_t c = 0; c < plan_.depth; c += kParameterChannels) {
        rows_of(first_channel + c, std::min(kParameterChannels, plan_.depth - c), problem_.spatial);
      }
      return;
    }
    while (begin < end) {
      const std::int64_t row = begin / problem_.spatial;
      const std::int64_t row_left = problem_.spatial - begin % problem_.spatial;
      const bool whole = row_left == problem_.spatial && end - begin >= row_left;
      const std::int64_t rows = whole ? std::min((end - begin) / row_left, kParameterChannels) : 1;
      rows_of(first_channel + row, rows, std::min(row_left, end - begin));
    }
  }

  // Spatial size 1: every element has a channel of its own.
  void write_channels(const RowWriter<T>& writer, const T* x, T* y, std::int64_t first_channel,
                      const Normaliser& normal, std::int64_t begin, std::int64_t end) const {
    ChannelParameters<W> parameters;
    for (; begin < end; begin += kParameterChannels) {
      const std::int64_t count = std::min(kParameterChannels, end - begin);
      parameters.set(0, count, normal, scale_ + first_channel + begin, bias_ + first_channel + begin);
      writer.channels(x + begin, y + begin, 1, count, count, parameters, writer.alpha);
    }
  }

  const GroupNormProblem& problem_;
  ChannelsFirstPlan plan_;
  const T* x_;
  const T* scale_;
  const T* bias_;
  T* y_;
};

}  // namespace gn::GN_ISA
