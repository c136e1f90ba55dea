// Owners of what ONNX Runtime hands out, and its status turned into an exception of ours and back.
//
// Exceptions stay inside: every callback ends in `guarded`, which turns them into a status for ONNX Runtime.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ort/abi.h"

namespace gn::ort {

class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
  std::string message_;
};

// Throws what a call of ONNX Runtime reports.
inline void check(const Api& api, Status* status) {
  if (status == nullptr) return;
  const std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw Error(ErrorCode::kFail, message);
}

template <typename Body>
Status* guarded(const Api& api, Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Error& e) {
    return api.CreateStatus(e.code(), e.what());
  } catch (const std::exception& e) {
    return api.CreateStatus(ErrorCode::kRuntimeException, e.what());
  } catch (...) {
    return api.CreateStatus(ErrorCode::kRuntimeException, "gn_onnx: unknown error");
  }
}

using Shape = std::vector<std::int64_t>;

// -1 for a dimension that is not known yet.
inline Shape shape_of(const Api& api, const TensorTypeAndShapeInfo* info) {
  std::size_t rank = 0;
  check(api, api.GetDimensionsCount(info, &rank));
  Shape shape(rank);
  check(api, api.GetDimensions(info, shape.data(), rank));
  return shape;
}

inline Shape shape_of(const Api& api, const Value* value) {
  TensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<TensorTypeAndShapeInfo, void (*)(TensorTypeAndShapeInfo*)> owner(
      info, api.ReleaseTensorTypeAndShapeInfo);
  return shape_of(api, info);
}

// The pointer of a tensor. ONNX Runtime has only the mutable form in this API version; inputs are read through it.
inline void* data_of(const Api& api, const Value* value) {
  void* data = nullptr;
  check(api, api.GetTensorMutableData(const_cast<Value*>(value), &data));
  return data;
}

// Scratch memory where a tensor lives, from ONNX Runtime's own allocator.
class Scratch {
 public:
  Scratch(const Api& api, const KernelContext* context, const Value* beside, std::size_t bytes) : api_(api) {
    if (bytes == 0) return;
    const MemoryInfo* memory = nullptr;
    check(api, api.GetTensorMemoryInfo(beside, &memory));
    check(api, api.KernelContext_GetAllocator(context, memory, &allocator_));
    if (Status* status = api.AllocatorAlloc(allocator_, bytes, &data_)) {
      api.ReleaseAllocator(allocator_);
      check(api, status);
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (data_ != nullptr) {
      if (Status* status = api_.AllocatorFree(allocator_, data_)) api_.ReleaseStatus(status);
    }
    if (allocator_ != nullptr) api_.ReleaseAllocator(allocator_);
  }
  void* data() const { return data_; }

 private:
  const Api& api_;
  Allocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

}  // namespace gn::ort
