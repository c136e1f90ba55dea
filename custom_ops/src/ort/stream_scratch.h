// Device memory for work that is still to run when the operator returns.
//
// ONNX Runtime's arena hands a block that was given back to whoever asks next, at once. A kernel's work is only
// enqueued by then, so memory that is given back after the launch may be written by a concurrent Run on another stream
// before the kernel has read it. Work on one stream, however, runs in order. So each stream gets memory of its own and
// keeps it until the operator's kernel is destroyed: later runs on the stream use it again, and a CUDA graph that was
// captured on the stream, and is replayed there, still finds it. Memory that became too small is kept too, for the same
// graph.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "ort/handles.h"

namespace gn::ort {

class StreamScratch {
 public:
  explicit StreamScratch(const Api& api) : api_(api) {}

  // Calls enqueue(memory) with at least `bytes` bytes for use on `stream`, a null pointer for none. Nobody else
  // enqueues work with the same memory meanwhile: threads may share a stream, and their launches must not interleave.
  // Asks ONNX Runtime for memory, beside the tensor `beside`, only when a stream needs more than it ever did.
  template <typename Enqueue>
  void with(const KernelContext* context, const Value* beside, void* stream, std::size_t bytes, Enqueue&& enqueue) {
    if (bytes == 0) {
      enqueue(static_cast<void*>(nullptr));
      return;
    }
    const std::lock_guard lock(mutex_);
    enqueue(memory_for(context, beside, stream, bytes));
  }

 private:
  struct Buffer {
    void* stream;
    std::size_t bytes;
    std::unique_ptr<Scratch> memory;
  };

  void* memory_for(const KernelContext* context, const Value* beside, void* stream, std::size_t bytes) {
    std::size_t largest = 0;
    for (const Buffer& buffer : buffers_) {
      if (buffer.stream != stream) continue;
      if (buffer.bytes >= bytes) return buffer.memory->data();
      largest = std::max(largest, buffer.bytes);
    }
    const std::size_t wanted = std::max(bytes, 2 * largest);  // so that all that is kept is at most twice the last
    buffers_.push_back({stream, wanted, std::make_unique<Scratch>(api_, context, beside, wanted)});
    return buffers_.back().memory->data();
  }

  const Api& api_;
  std::mutex mutex_;
  std::vector<Buffer> buffers_;
};

}  // namespace gn::ort
