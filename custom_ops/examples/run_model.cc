// Runs a model with one float input on the operator library, from C++ and without any header of ONNX Runtime:
//
//   run_model LIBONNXRUNTIME LIBGN_ONNX_OPS MODEL DIM...
//
// LIBONNXRUNTIME is e.g. onnxruntime/capi/libonnxruntime.so.* of a Python wheel; DIM... is the shape of the input,
// which is filled with (i % 17) / 8 - 1. Prints name, shape, sum and first values of each output that is float.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "host_api.h"

namespace {

namespace host = gn::host;
using gn::ort::Api;
using gn::ort::ElementType;
using gn::ort::Shape;
using gn::ort::Value;

using OwnedValue = host::Owner<Value, host::ReleaseValue>;

std::size_t elements_of(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1},
                         [](std::size_t count, std::int64_t dim) { return count * static_cast<std::size_t>(dim); });
}

ElementType element_type(const Api& api, const Value* value) {
  gn::ort::TensorTypeAndShapeInfo* info = nullptr;
  gn::ort::check(api, api.GetTensorTypeAndShape(value, &info));
  ElementType type{};
  gn::ort::Status* status = api.GetTensorElementType(info, &type);
  api.ReleaseTensorTypeAndShapeInfo(info);
  gn::ort::check(api, status);
  return type;
}

// Names of inputs or outputs; they come from an allocator of the runtime and are ours to free.
template <typename GetCount, typename GetName>
std::vector<std::string> names_of(const Api& api, const host::Session* session, const GetCount& get_count,
                                  const GetName& get_name) {
  gn::ort::Allocator* allocator = nullptr;
  host::GetAllocatorWithDefaultOptions(api, &allocator);
  std::size_t count = 0;
  get_count(api, session, &count);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    char* text = nullptr;
    get_name(api, session, i, allocator, &text);
    names.emplace_back(text);
    gn::ort::check(api, api.AllocatorFree(allocator, text));
  }
  return names;
}

void print(const Api& api, const std::string& name, const Value* value) {
  const Shape shape = gn::ort::shape_of(api, value);
  std::printf("%s [", name.c_str());
  for (const std::int64_t dim : shape) std::printf(" %lld", static_cast<long long>(dim));
  std::printf(" ]");
  if (element_type(api, value) == ElementType::kFloat) {
    const std::size_t count = elements_of(shape);
    const auto* data = static_cast<const float*>(gn::ort::data_of(api, value));
    std::printf(" sum %.9g first", std::accumulate(data, data + count, 0.0));
    for (std::size_t i = 0; i < std::min<std::size_t>(count, 8); ++i)
      std::printf(" %.9g", static_cast<double>(data[i]));
  }
  std::printf("\n");
}

void run(const char* runtime, const char* operators, const char* model, const Shape& shape) {
  const Api& api = host::load(runtime);
  constexpr int kWarnings = 2;
  const auto env = host::make<host::Env, host::ReleaseEnv>(api, host::CreateEnv, kWarnings, "run_model");
  const auto options =
      host::make<gn::ort::SessionOptions, host::ReleaseSessionOptions>(api, host::CreateSessionOptions);
  host::RegisterCustomOpsLibrary_V2(api, options.get(), operators);
  const auto session = host::make<host::Session, host::ReleaseSession>(
      api, host::CreateSession, static_cast<const host::Env*>(env.get()), model,
      static_cast<const gn::ort::SessionOptions*>(options.get()));

  const auto inputs = names_of(api, session.get(), host::SessionGetInputCount, host::SessionGetInputName);
  const auto outputs = names_of(api, session.get(), host::SessionGetOutputCount, host::SessionGetOutputName);
  if (inputs.size() != 1) throw std::runtime_error(std::to_string(inputs.size()) + " inputs; this example feeds one");

  std::vector<float> data(elements_of(shape));
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i % 17) * 0.125F - 1.0F;
  constexpr int kArena = 1;
  const auto memory =
      host::make<gn::ort::MemoryInfo, host::ReleaseMemoryInfo>(api, host::CreateCpuMemoryInfo, kArena, 0);
  const OwnedValue x = host::make<Value, host::ReleaseValue>(
      api, host::CreateTensorWithDataAsOrtValue, static_cast<const gn::ort::MemoryInfo*>(memory.get()),
      static_cast<void*>(data.data()), data.size() * sizeof(float), shape.data(), shape.size(), ElementType::kFloat);

  std::vector<const char*> output_names;
  for (const std::string& name : outputs) output_names.push_back(name.c_str());
  std::vector<Value*> made(outputs.size(), nullptr);
  const char* input_name = inputs[0].c_str();
  const Value* input = x.get();
  host::Run(api, session.get(), nullptr, &input_name, &input, std::size_t{1}, output_names.data(), made.size(),
            made.data());
  std::vector<OwnedValue> owned;
  for (Value* value : made) owned.emplace_back(value, x.get_deleter());
  for (std::size_t i = 0; i < made.size(); ++i) print(api, outputs[i], made[i]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: %s LIBONNXRUNTIME LIBGN_ONNX_OPS MODEL DIM...\n", argv[0]);
    return 2;
  }
  Shape shape;
  for (int i = 4; i < argc; ++i) {
    char* end = nullptr;
    errno = 0;
    shape.push_back(std::strtoll(argv[i], &end, 10));
    if (errno != 0 || end == argv[i] || *end != '\0' || shape.back() < 1 || shape.back() > (std::int64_t{1} << 24)) {
      std::fprintf(stderr, "%s: '%s' is no size of a dimension\n", argv[0], argv[i]);
      return 2;
    }
  }
  try {
    run(argv[1], argv[2], argv[3], shape);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
  return 0;
}
