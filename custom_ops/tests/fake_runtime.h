// A stand-in for ONNX Runtime: the functions that the library calls, which keep count of everything they hand out and
// fail when they are told to. A slot that is not in src/ort/abi.h ends the program.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ort/abi.h"

namespace gn::ort {

struct Status {
  ErrorCode code;
  std::string message;
};

struct CustomOpDomain {
  std::string name;
  std::vector<const CustomOp*> ops;
};

struct SessionOptions {
  std::vector<CustomOpDomain*> domains;
};

struct KernelInfo {
  std::string node = "node";
  std::map<std::string, std::variant<std::int64_t, float, std::string>> attributes;
};

struct TensorTypeAndShapeInfo {
  std::vector<std::int64_t> dims;
  std::vector<std::string> names;  // as many as dims; empty where a dimension has none
};

// A tensor whose buffer is exactly as long as it says, so that a sanitizer sees one element too many.
struct Value {
  Value(std::vector<std::int64_t> dims, std::size_t size) : shape(std::move(dims)), bytes(size) {
    if (size != 0) data = std::make_unique<std::byte[]>(size);
  }
  std::vector<std::int64_t> shape;
  std::size_t bytes;
  std::unique_ptr<std::byte[]> data;
};

enum class Order { kForward, kBackward, kThreads };

struct KernelContext {
  std::vector<const Value*> inputs;
  Value* output;  // what the kernel gets; its shape is checked
  Order order = Order::kForward;
};

struct ShapeInferContext {
  TensorTypeAndShapeInfo input;
  TensorTypeAndShapeInfo output;
  bool set = false;
};

}  // namespace gn::ort

namespace gn::fake {

// Handed out and not yet given back.
struct Live {
  std::atomic<int> statuses{0};
  std::atomic<int> infos{0};
  std::atomic<int> allocators{0};
  std::atomic<int> blocks{0};
  std::atomic<int> domains{0};
};
Live& live();

// The `count`-th call from now on that can fail does so, on this thread; 0: none.
void fail_after(int count);

// A table of functions of its own, as every ONNX Runtime that is loaded has one; never freed.
const ort::Api* new_runtime();

// The base that a library is registered with. `version` must outlive it.
ort::ApiBase base_of(const ort::Api* api, const char* version);

// Prints what is wrong and ends the program.
[[noreturn]] void broken(const std::string& what);

// Takes a status's message and releases it; a null status has none.
std::string message_of(const ort::Api& api, ort::Status* status);

}  // namespace gn::fake
