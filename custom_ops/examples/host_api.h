// What a program needs of ONNX Runtime's C ABI to run a model, by position in the table of functions that
// OrtGetApiBase()->GetApi returns. src/ort/abi.h has what an operator library needs; with ONNX Runtime's own headers at
// hand neither is needed.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <type_traits>

#include "ort/abi.h"
#include "ort/handles.h"

namespace gn::host {

using ort::Allocator;
using ort::Api;
using ort::ApiBase;
using ort::ElementType;
using ort::MemoryInfo;
using ort::SessionOptions;
using ort::Status;
using ort::Value;

struct Env;
struct Session;

// The function at `kSlot`; a status that it returns is checked.
template <std::size_t kSlot, typename Function>
struct Entry {
  template <typename... Arguments>
  void operator()(const Api& api, Arguments... arguments) const {
    const auto function = reinterpret_cast<Function>(reinterpret_cast<void* const*>(&api)[kSlot]);
    if constexpr (std::is_same_v<decltype(function(arguments...)), Status*>) {
      ort::check(api, function(arguments...));
    } else {
      function(arguments...);
    }
  }
};

inline constexpr Entry<3, Status* (*)(int severity, const char* id, Env**)> CreateEnv;
inline constexpr Entry<7, Status* (*)(const Env*, const char* path, const SessionOptions*, Session**)> CreateSession;
inline constexpr Entry<9, Status* (*)(Session*, const void* run_options, const char* const* input_names,
                                      const Value* const* inputs, std::size_t input_count,
                                      const char* const* output_names, std::size_t output_count, Value** outputs)>
    Run;
inline constexpr Entry<10, Status* (*)(SessionOptions**)> CreateSessionOptions;
inline constexpr Entry<30, Status* (*)(const Session*, std::size_t*)> SessionGetInputCount;
inline constexpr Entry<31, Status* (*)(const Session*, std::size_t*)> SessionGetOutputCount;
inline constexpr Entry<36, Status* (*)(const Session*, std::size_t, Allocator*, char**)> SessionGetInputName;
inline constexpr Entry<37, Status* (*)(const Session*, std::size_t, Allocator*, char**)> SessionGetOutputName;
inline constexpr Entry<49, Status* (*)(const MemoryInfo*, void* data, std::size_t bytes, const std::int64_t* shape,
                                       std::size_t rank, ElementType, Value**)>
    CreateTensorWithDataAsOrtValue;
inline constexpr Entry<69, Status* (*)(int allocator_type, int memory_type, MemoryInfo**)> CreateCpuMemoryInfo;
inline constexpr Entry<78, Status* (*)(Allocator**)> GetAllocatorWithDefaultOptions;
inline constexpr Entry<92, void (*)(Env*)> ReleaseEnv;
inline constexpr Entry<94, void (*)(MemoryInfo*)> ReleaseMemoryInfo;
inline constexpr Entry<95, void (*)(Session*)> ReleaseSession;
inline constexpr Entry<96, void (*)(Value*)> ReleaseValue;
inline constexpr Entry<100, void (*)(SessionOptions*)> ReleaseSessionOptions;
inline constexpr Entry<228, Status* (*)(SessionOptions*, const char* path)> RegisterCustomOpsLibrary_V2;

// Owns what an entry above created.
template <const auto& kRelease>
struct Releaser {
  const Api* api;
  template <typename T>
  void operator()(T* object) const {
    kRelease(*api, object);
  }
};
template <typename T, const auto& kRelease>
using Owner = std::unique_ptr<T, Releaser<kRelease>>;

// Calls an entry whose last argument is where the new object goes.
template <typename T, const auto& kRelease, typename Create, typename... Arguments>
Owner<T, kRelease> make(const Api& api, const Create& create, Arguments... arguments) {
  T* object = nullptr;
  create(api, arguments..., &object);
  return Owner<T, kRelease>(object, Releaser<kRelease>{&api});
}

// The functions of a libonnxruntime.so. It stays loaded.
inline const Api& load(const char* runtime) {
  void* handle = dlopen(runtime, RTLD_NOW | RTLD_LOCAL);
  void* symbol = handle != nullptr ? dlsym(handle, "OrtGetApiBase") : nullptr;
  if (symbol == nullptr) throw std::runtime_error(dlerror());
  const ApiBase* base = reinterpret_cast<const ApiBase* (*)()>(symbol)();
  const Api* api = base->GetApi(ort::kApiVersion);
  if (api == nullptr) throw std::runtime_error("this ONNX Runtime is older than 1.17");
  return *api;
}

}  // namespace gn::host
