// As much of ONNX Runtime as an operator's kernel sees: tensors, attributes, a stream, and an allocator that counts.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "ort/group_norm_op.h"
#include "ort/handles.h"

// Opaque to the library, so the fake may say what they are.
namespace gn::ort {

struct Status {
  ErrorCode code;
  std::string message;
};

struct TensorTypeAndShapeInfo {
  Shape shape;
};

struct Value {
  Shape shape;
  void* data;
};

struct KernelInfo {
  std::string node;
  std::map<std::string, std::int64_t> ints;
  std::map<std::string, float> floats;
};

struct MemoryInfo {};

struct Allocator {
  std::map<void*, std::size_t> live;
  int asked = 0;
  int given_back = 0;
  int handles = 0;  // handed out and not released
  bool empty = false;

  ~Allocator() {
    for (const auto& [memory, bytes] : live) ::operator delete(memory, std::align_val_t{256});
  }
};

struct KernelContext {
  std::vector<const Value*> inputs;
  Value* y = nullptr;
  void* stream = nullptr;
  Allocator* allocator = nullptr;
};

}  // namespace gn::ort

namespace gn::testing {

inline ort::Status* failure(ort::ErrorCode code, const char* message) { return new ort::Status{code, message}; }

template <typename T>
ort::Status* look_up(const std::map<std::string, T>& attributes, const char* name, T* value) {
  const auto found = attributes.find(name);
  if (found == attributes.end()) return failure(ort::ErrorCode::kFail, "no such attribute");
  *value = found->second;
  return nullptr;
}

inline void set_allocator(ort::Api& api) {
  using namespace ort;
  api.KernelContext_GetAllocator = [](const KernelContext* context, const MemoryInfo*, Allocator** out) -> Status* {
    ++context->allocator->handles;
    *out = context->allocator;
    return nullptr;
  };
  api.ReleaseAllocator = [](Allocator* allocator) { --allocator->handles; };
  api.AllocatorAlloc = [](Allocator* allocator, std::size_t bytes, void** out) -> Status* {
    if (allocator->empty) return failure(ErrorCode::kFail, "out of memory");
    ++allocator->asked;
    *out = ::operator new(bytes, std::align_val_t{256});
    std::memset(*out, 0xff, bytes);
    allocator->live[*out] = bytes;
    return nullptr;
  };
  api.AllocatorFree = [](Allocator* allocator, void* memory) -> Status* {
    ++allocator->given_back;
    if (allocator->live.erase(memory) == 0) return failure(ErrorCode::kFail, "not from here");
    ::operator delete(memory, std::align_val_t{256});
    return nullptr;
  };
}

// Every function that a kernel calls; the rest stay null, so that a call of them is noticed.
inline ort::Api make_api() {
  using namespace ort;
  Api api{};
  api.CreateStatus = failure;
  api.GetErrorMessage = [](const Status* status) { return status->message.c_str(); };
  api.ReleaseStatus = [](Status* status) { delete status; };
  api.KernelInfo_GetNodeName = [](const KernelInfo* info, char* name, std::size_t* size) -> Status* {
    *size = info->node.size() + 1;
    if (name != nullptr) std::memcpy(name, info->node.c_str(), *size);
    return nullptr;
  };
  api.KernelInfoGetAttribute_int64 = [](const KernelInfo* info, const char* name, std::int64_t* value) {
    return look_up(info->ints, name, value);
  };
  api.KernelInfoGetAttribute_float = [](const KernelInfo* info, const char* name, float* value) {
    return look_up(info->floats, name, value);
  };
  api.KernelContext_GetInputCount = [](const KernelContext* context, std::size_t* count) -> Status* {
    *count = context->inputs.size();
    return nullptr;
  };
  api.KernelContext_GetInput = [](const KernelContext* context, std::size_t index, const Value** out) -> Status* {
    *out = context->inputs[index];
    return nullptr;
  };
  api.KernelContext_GetOutput = [](KernelContext* context, std::size_t, const std::int64_t* dims, std::size_t rank,
                                   Value** out) -> Status* {
    context->y->shape.assign(dims, dims + rank);
    *out = context->y;
    return nullptr;
  };
  api.KernelContext_GetGPUComputeStream = [](const KernelContext* context, void** stream) -> Status* {
    *stream = context->stream;
    return nullptr;
  };
  api.GetTensorTypeAndShape = [](const Value* value, TensorTypeAndShapeInfo** out) -> Status* {
    *out = new TensorTypeAndShapeInfo{value->shape};
    return nullptr;
  };
  api.ReleaseTensorTypeAndShapeInfo = [](TensorTypeAndShapeInfo* info) { delete info; };
  api.GetDimensionsCount = [](const TensorTypeAndShapeInfo* info, std::size_t* count) -> Status* {
    *count = info->shape.size();
    return nullptr;
  };
  api.GetDimensions = [](const TensorTypeAndShapeInfo* info, std::int64_t* dims, std::size_t rank) -> Status* {
    std::memcpy(dims, info->shape.data(), rank * sizeof(std::int64_t));
    return nullptr;
  };
  api.GetTensorMutableData = [](Value* value, void** data) -> Status* {
    *data = value->data;
    return nullptr;
  };
  api.GetTensorMemoryInfo = [](const Value*, const MemoryInfo** out) -> Status* {
    static const MemoryInfo memory;
    *out = &memory;
    return nullptr;
  };
  set_allocator(api);
  return api;
}

}  // namespace gn::testing
