// Runs a model with one float input on the operator library, from C++ and without any header of ONNX Runtime:
//
//   run_model LIBONNXRUNTIME LIBGN_ONNX_OPS MODEL DIM...
//
// LIBONNXRUNTIME is e.g. onnxruntime/capi/libonnxruntime.so.* of a Python wheel; DIM... is the shape of the input. With
// ONNX Runtime's own headers the registration is one call, SessionOptions::RegisterCustomOpsLibrary.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort/abi.h"
#include "ort/handles.h"

namespace {

using gn::ort::Api;
using gn::ort::check;
using gn::ort::Shape;
using gn::ort::Status;
using gn::ort::Value;
using Options = gn::ort::SessionOptions;
using Memory = gn::ort::MemoryInfo;

struct Env;
struct Session;

// Functions that only a host needs; src/ort/abi.h has those that an operator library needs.
template <typename Function>
Function slot(const Api& api, std::size_t index) {
  return reinterpret_cast<Function>(reinterpret_cast<void* const*>(&api)[index]);
}

void* symbol_of(const char* library, const char* name) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  void* symbol = handle != nullptr ? dlsym(handle, name) : nullptr;
  if (symbol == nullptr) throw std::runtime_error(dlerror());
  return symbol;
}

void print(const Api& api, const std::string& name, const Value* value) {
  std::string line = name + " [";
  std::size_t count = 1;
  for (const std::int64_t dim : gn::ort::shape_of(api, value)) {
    line.append(" ").append(std::to_string(dim));
    count *= static_cast<std::size_t>(dim);
  }
  std::printf("%s ]", line.c_str());
  const auto* data = static_cast<const float*>(gn::ort::data_of(api, value));
  for (std::size_t i = 0; i < std::min<std::size_t>(count, 8); ++i) std::printf(" %.9g", static_cast<double>(data[i]));
  std::printf("\n");
}

void run(const char* runtime, const char* operators, const char* model, const Shape& shape) {
  const auto get_base = reinterpret_cast<const gn::ort::ApiBase* (*)()>(symbol_of(runtime, "OrtGetApiBase"));
  const gn::ort::ApiBase* base = get_base();
  const Api* table = base->GetApi(gn::ort::kApiVersion);
  if (table == nullptr) throw std::runtime_error("this ONNX Runtime is older than 1.17");
  const Api& api = *table;

  Env* env = nullptr;
  Options* options = nullptr;
  Session* session = nullptr;
  check(api, slot<Status* (*)(int severity, const char*, Env**)>(api, 3)(2, "run_model", &env));  // CreateEnv
  check(api, slot<Status* (*)(Options**)>(api, 10)(&options));  // CreateSessionOptions
  using Register = Status* (*)(Options*, const gn::ort::ApiBase*);
  check(api, reinterpret_cast<Register>(symbol_of(operators, "RegisterCustomOps"))(options, base));
  using CreateSession = Status* (*)(const Env*, const char*, const Options*, Session**);
  check(api, slot<CreateSession>(api, 7)(env, model, options, &session));

  // Names come from this allocator and are ours to free.
  gn::ort::Allocator* allocator = nullptr;
  check(api, slot<Status* (*)(gn::ort::Allocator**)>(api, 78)(&allocator));  // GetAllocatorWithDefaultOptions
  using GetName = Status* (*)(const Session*, std::size_t, gn::ort::Allocator*, char**);
  const auto take_name = [&](std::size_t get, std::size_t index) {
    char* text = nullptr;
    check(api, slot<GetName>(api, get)(session, index, allocator, &text));
    std::string name = text;
    check(api, api.AllocatorFree(allocator, text));
    return name;
  };
  std::size_t count = 0;
  check(api, slot<Status* (*)(const Session*, std::size_t*)>(api, 31)(session, &count));  // SessionGetOutputCount
  const std::string input_name = take_name(36, 0);                                        // SessionGetInputName
  std::vector<std::string> names;
  std::vector<const char*> name_pointers;
  for (std::size_t i = 0; i < count; ++i) names.push_back(take_name(37, i));  // SessionGetOutputName
  for (const std::string& name : names) name_pointers.push_back(name.c_str());

  std::size_t elements = 1;
  for (const std::int64_t dim : shape) elements *= static_cast<std::size_t>(dim);
  std::vector<float> data(elements);
  for (std::size_t i = 0; i < elements; ++i) data[i] = static_cast<float>(i % 17) * 0.125F - 1.0F;
  Memory* memory = nullptr;
  Value* input = nullptr;
  check(api, slot<Status* (*)(int, int, Memory**)>(api, 69)(0, 0, &memory));  // CreateCpuMemoryInfo
  using Wrap = Status* (*)(const Memory*, void*, std::size_t, const std::int64_t*, std::size_t, int, Value**);
  check(api, slot<Wrap>(api, 49)(memory, data.data(), elements * sizeof(float), shape.data(), shape.size(),
                                 static_cast<int>(gn::ort::ElementType::kFloat), &input));

  std::vector<Value*> outputs(count, nullptr);
  using Run = Status* (*)(Session*, const void*, const char* const*, const Value* const*, std::size_t,
                          const char* const*, std::size_t, Value**);
  const char* input_pointer = input_name.c_str();
  check(api,
        slot<Run>(api, 9)(session, nullptr, &input_pointer, &input, 1, name_pointers.data(), count, outputs.data()));
  for (std::size_t i = 0; i < count; ++i) print(api, names[i], outputs[i]);

  for (Value* output : outputs) slot<void (*)(Value*)>(api, 96)(output);
  slot<void (*)(Value*)>(api, 96)(input);
  slot<void (*)(Memory*)>(api, 94)(memory);
  slot<void (*)(Session*)>(api, 95)(session);
  slot<void (*)(Options*)>(api, 100)(options);
  slot<void (*)(Env*)>(api, 92)(env);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: %s LIBONNXRUNTIME LIBGN_ONNX_OPS MODEL DIM...\n", argv[0]);
    return 2;
  }
  try {
    Shape shape;
    for (int i = 4; i < argc; ++i) shape.push_back(std::strtoll(argv[i], nullptr, 10));
    run(argv[1], argv[2], argv[3], shape);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
  return 0;
}
