#include "fake_runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace gn::ort {
struct Allocator {};
struct MemoryInfo {};
}  // namespace gn::ort

namespace gn::fake {
namespace {

using ort::Api;
using ort::ErrorCode;
using ort::Status;

thread_local int countdown = 0;

// Every function that returns a status starts with this: the failure that was asked for, or null.
Status* failure() {
  if (countdown == 0 || --countdown != 0) return nullptr;
  ++live().statuses;
  return new Status{ErrorCode::kFail, "asked for"};
}

Status* refuse(const char* why) {
  ++live().statuses;
  return new Status{ErrorCode::kInvalidArgument, why};
}

void unknown_slot() { broken("a function was called that is not in API version 17"); }

template <typename T>
Status* attribute(const ort::KernelInfo* info, const char* name, T* out) {
  if (Status* status = failure()) return status;
  const auto found = info->attributes.find(name);
  if (found == info->attributes.end()) return refuse("no such attribute");
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) return refuse("attribute of another type");
  *out = *value;
  return nullptr;
}

void fill_registration(Api* api) {
  api->CreateStatus = [](ErrorCode code, const char* message) {
    ++live().statuses;
    return new Status{code, message};
  };
  api->GetErrorMessage = [](const Status* status) { return status->message.c_str(); };
  api->ReleaseStatus = [](Status* status) {
    --live().statuses;
    delete status;
  };
  api->CreateCustomOpDomain = [](const char* name, ort::CustomOpDomain** out) {
    Status* status = failure();
    if (status == nullptr) {
      ++live().domains;
      *out = new ort::CustomOpDomain{name, {}};
    }
    return status;
  };
  api->ReleaseCustomOpDomain = [](ort::CustomOpDomain* domain) {
    --live().domains;
    delete domain;
  };
  api->CustomOpDomain_Add = [](ort::CustomOpDomain* domain, const ort::CustomOp* op) {
    Status* status = failure();
    if (status == nullptr) domain->ops.push_back(op);
    return status;
  };
  api->AddCustomOpDomain = [](ort::SessionOptions* options, ort::CustomOpDomain* domain) {
    Status* status = failure();
    if (status == nullptr) options->domains.push_back(domain);
    return status;
  };
}

void fill_shapes(Api* api) {
  using ort::TensorTypeAndShapeInfo;
  api->GetTensorTypeAndShape = [](const ort::Value* value, TensorTypeAndShapeInfo** out) {
    Status* status = failure();
    if (status == nullptr) {
      ++live().infos;
      *out = new TensorTypeAndShapeInfo{value->shape, std::vector<std::string>(value->shape.size())};
    }
    return status;
  };
  api->ReleaseTensorTypeAndShapeInfo = [](TensorTypeAndShapeInfo* info) {
    --live().infos;
    delete info;
  };
  api->GetDimensionsCount = [](const TensorTypeAndShapeInfo* info, std::size_t* out) {
    Status* status = failure();
    if (status == nullptr) *out = info->dims.size();
    return status;
  };
  api->GetDimensions = [](const TensorTypeAndShapeInfo* info, std::int64_t* out, std::size_t count) {
    Status* status = failure();
    if (status == nullptr) std::copy_n(info->dims.begin(), std::min(count, info->dims.size()), out);
    return status;
  };
  api->GetSymbolicDimensions = [](const TensorTypeAndShapeInfo* info, const char** out, std::size_t count) {
    Status* status = failure();
    if (status == nullptr) {
      for (std::size_t i = 0; i < std::min(count, info->names.size()); ++i) out[i] = info->names[i].c_str();
    }
    return status;
  };
  api->SetSymbolicDimensions = [](TensorTypeAndShapeInfo* info, const char** names, std::size_t count) -> Status* {
    if (Status* status = failure()) return status;
    if (count != info->dims.size()) return refuse("as many names as dimensions");
    info->names.assign(names, names + count);
    return nullptr;
  };
  api->ShapeInferContext_GetInputTypeShape = [](const ort::ShapeInferContext* context, std::size_t index,
                                                TensorTypeAndShapeInfo** out) -> Status* {
    if (Status* status = failure()) return status;
    if (index != 0) return refuse("no such input");
    *out = const_cast<TensorTypeAndShapeInfo*>(&context->input);  // stays the context's
    return nullptr;
  };
  api->ShapeInferContext_SetOutputTypeShape = [](const ort::ShapeInferContext* context, std::size_t,
                                                 const TensorTypeAndShapeInfo* info) {
    Status* status = failure();
    if (status == nullptr) {
      auto* writable = const_cast<ort::ShapeInferContext*>(context);
      writable->output = *info;
      writable->set = true;
    }
    return status;
  };
}

void fill_kernels(Api* api) {
  using ort::KernelContext;
  api->KernelInfoGetAttribute_float = attribute<float>;
  api->KernelInfoGetAttribute_int64 = attribute<std::int64_t>;
  api->KernelInfo_GetNodeName = [](const ort::KernelInfo* info, char* out, std::size_t* size) -> Status* {
    if (Status* status = failure()) return status;
    const std::size_t needed = info->node.size() + 1;
    const bool fits = *size >= needed;
    *size = needed;
    if (out == nullptr) return nullptr;
    if (!fits) return refuse("the buffer is too small");
    std::memcpy(out, info->node.c_str(), needed);
    return nullptr;
  };
  api->KernelContext_GetInputCount = [](const KernelContext* context, std::size_t* out) {
    Status* status = failure();
    if (status == nullptr) *out = context->inputs.size();
    return status;
  };
  api->KernelContext_GetInput = [](const KernelContext* context, std::size_t index, const ort::Value** out) -> Status* {
    if (Status* status = failure()) return status;
    if (index >= context->inputs.size()) return refuse("no such input");
    *out = context->inputs[index];
    return nullptr;
  };
  api->KernelContext_GetOutput = [](KernelContext* context, std::size_t index, const std::int64_t* dims,
                                    std::size_t rank, ort::Value** out) -> Status* {
    if (Status* status = failure()) return status;
    if (index != 0 || !std::equal(dims, dims + rank, context->output->shape.begin(), context->output->shape.end())) {
      broken("the output has another shape than X");
    }
    *out = context->output;
    return nullptr;
  };
  api->KernelContext_ParallelFor = [](const KernelContext* context, void (*body)(void*, std::size_t), std::size_t total,
                                      std::size_t, void* state) {
    Status* status = failure();
    if (status != nullptr) return status;
    if (context->order == ort::Order::kThreads) {
      std::vector<std::thread> threads;
      for (std::size_t first = 0; first < 3; ++first) {
        threads.emplace_back([=] {
          for (std::size_t i = first; i < total; i += 3) body(state, i);
        });
      }
      for (std::thread& thread : threads) thread.join();
      return status;
    }
    for (std::size_t i = 0; i < total; ++i) body(state, context->order == ort::Order::kForward ? i : total - 1 - i);
    return status;
  };
}

void fill_memory(Api* api) {
  static ort::MemoryInfo memory;
  api->GetTensorMutableData = [](ort::Value* value, void** out) {
    Status* status = failure();
    if (status == nullptr) *out = value->data.get();
    return status;
  };
  api->GetTensorMemoryInfo = [](const ort::Value*, const ort::MemoryInfo** out) {
    Status* status = failure();
    if (status == nullptr) *out = &memory;
    return status;
  };
  api->KernelContext_GetAllocator = [](const ort::KernelContext*, const ort::MemoryInfo*, ort::Allocator** out) {
    Status* status = failure();
    if (status == nullptr) {
      ++live().allocators;
      *out = new ort::Allocator;
    }
    return status;
  };
  api->ReleaseAllocator = [](ort::Allocator* allocator) {
    --live().allocators;
    delete allocator;
  };
  api->AllocatorAlloc = [](ort::Allocator*, std::size_t bytes, void** out) {
    Status* status = failure();
    if (status == nullptr) {
      ++live().blocks;
      *out = std::malloc(bytes);
    }
    return status;
  };
  api->AllocatorFree = [](ort::Allocator*, void* block) -> Status* {
    --live().blocks;
    std::free(block);
    return nullptr;
  };
}

}  // namespace

Live& live() {
  static Live counts;
  return counts;
}

void fail_after(int count) { countdown = count; }

const Api* new_runtime() {
  auto* api = new Api;
  auto* slots = reinterpret_cast<void**>(api);
  std::fill_n(slots, sizeof(Api) / sizeof(void*), reinterpret_cast<void*>(unknown_slot));
  fill_registration(api);
  fill_shapes(api);
  fill_kernels(api);
  fill_memory(api);
  return api;
}

void broken(const std::string& what) {
  std::fprintf(stderr, "BROKEN: %s\n", what.c_str());
  std::abort();
}

std::string message_of(const Api& api, Status* status) {
  if (status == nullptr) return {};
  std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  if (message.empty()) broken("an error without a message");
  return message;
}

namespace {
// GetApi and GetVersionString take no argument that says which runtime is meant.
thread_local const Api* registering = nullptr;
thread_local const char* registering_version = nullptr;
}  // namespace

ort::ApiBase base_of(const Api* api, const char* version) {
  registering = api;
  registering_version = version;
  return {[](std::uint32_t wanted) { return wanted == ort::kApiVersion ? registering : nullptr; },
          [] { return registering_version; }};
}

}  // namespace gn::fake
