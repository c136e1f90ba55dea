// The layer between ONNX Runtime and the kernels, in a stand-in for ONNX Runtime (fake_runtime.h): what a thread
// sanitizer can watch, and what happens when any single call of ONNX Runtime fails.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <thread>

#include "fake_runtime.h"

extern "C" gn::ort::Status* RegisterCustomOps(gn::ort::SessionOptions*, const gn::ort::ApiBase*);

namespace {

using namespace gn::ort;
using gn::fake::broken;
using gn::fake::fail_after;
using gn::fake::live;
using gn::fake::message_of;

constexpr int kThreads = 6;

void require(bool holds, const char* what) {
  if (!holds) broken(what);
}

void require_nothing_live() {
  const auto& counts = live();
  require(counts.statuses == 0 && counts.infos == 0 && counts.allocators == 0 && counts.blocks == 0,
          "something was not given back");
}

void on_threads(const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(body, i);
  for (std::thread& thread : threads) thread.join();
}

std::string register_with(const Api* api, const char* version, SessionOptions* options) {
  const ApiBase base = gn::fake::base_of(api, version);
  return message_of(*api, RegisterCustomOps(options, &base));
}

// An operator of the domain, on the CPU in one type.
const CustomOp& find(const Api* api, const char* domain, const char* name, ElementType type) {
  SessionOptions options;
  require(register_with(api, "1.32.0", &options).empty(), "registration fails");
  for (const CustomOpDomain* candidate : options.domains) {
    if (candidate->name != domain) continue;
    for (const CustomOp* op : candidate->ops) {
      if (std::strcmp(op->GetName(op), name) == 0 && op->GetInputType(op, 0) == type &&
          std::strcmp(op->GetExecutionProviderType(op), "CPUExecutionProvider") == 0) {
        return *op;
      }
    }
  }
  broken(std::string("no operator ") + name);
}

KernelInfo info_of(std::int64_t num_groups) {
  KernelInfo info;
  info.attributes = {{"num_groups", num_groups}, {"epsilon", 1e-5F}};
  return info;
}

// x, scale and bias in float: [2, 32, 80, 80] has groups of several chunks, which need scratch memory.
std::vector<Value> tensors() {
  std::vector<Value> values;
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{2, 32, 80, 80}, {32}, {32}}) {
    std::size_t count = 1;
    for (const std::int64_t dim : shape) count *= static_cast<std::size_t>(dim);
    values.emplace_back(shape, count * sizeof(float));
    auto* data = reinterpret_cast<float*>(values.back().data.get());
    for (std::size_t i = 0; i < count; ++i) data[i] = std::sin(static_cast<float>(i % 8191)) + 2.0F;
  }
  return values;
}

std::string run(const Api& api, const CustomOp& op, void* kernel, const std::vector<Value>& values, Order order,
                Value* y) {
  KernelContext context{{&values[0], &values[1], &values[2]}, y, order};
  return message_of(api, op.KernelComputeV2(kernel, &context));
}

void versions_are_not_exceeded() {
  for (const auto& [version, most] : {std::pair{"1.17.3", 17U}, {"1.18.0", 18U}, {"1.32.0", 32U}, {"what", 17U}}) {
    SessionOptions options;
    require(register_with(gn::fake::new_runtime(), version, &options).empty(), "registration fails");
    for (const CustomOpDomain* domain : options.domains) {
      for (const CustomOp* op : domain->ops) require(op->version <= most, "an operator newer than its runtime");
    }
  }
}

void an_older_runtime_gets_nothing() {
  SessionOptions options;
  const ApiBase base{[](std::uint32_t) -> const Api* { return nullptr; }, [] { return "1.16.3"; }};
  require(RegisterCustomOps(&options, &base) == nullptr && options.domains.empty(), "an older runtime got operators");
}

void many_threads_register_at_once() {
  const Api* api = gn::fake::new_runtime();
  std::vector<SessionOptions> options(kThreads);
  on_threads([&](int i) {
    for (int again = 0; again < 50; ++again) {
      options[static_cast<std::size_t>(i)].domains.clear();
      require(register_with(api, "1.32.0", &options[static_cast<std::size_t>(i)]).empty(), "registration fails");
    }
  });
  for (const SessionOptions& of : options) require(of.domains == options[0].domains, "not the same domains");
}

void many_threads_share_a_kernel() {
  const Api* api = gn::fake::new_runtime();
  const CustomOp& op = find(api, "gn_onnx", "GroupNormalizationSilu", ElementType::kFloat);
  const std::vector<Value> values = tensors();
  const KernelInfo info = info_of(2);
  void* shared = nullptr;
  require(message_of(*api, op.CreateKernelV2(&op, api, &info, &shared)).empty(), "no kernel");
  Value want(values[0].shape, values[0].bytes);
  require(run(*api, op, shared, values, Order::kForward, &want).empty(), "does not run");
  on_threads([&](int i) {
    void* own = nullptr;
    require(message_of(*api, op.CreateKernelV2(&op, api, &info, &own)).empty(), "no kernel");
    for (void* kernel : {shared, own}) {
      Value y(values[0].shape, values[0].bytes);
      const Order order = i % 3 == 0 ? Order::kForward : i % 3 == 1 ? Order::kBackward : Order::kThreads;
      require(run(*api, op, kernel, values, order, &y).empty(), "does not run");
      require(std::memcmp(y.data.get(), want.data.get(), y.bytes) == 0, "other bits on another thread");
    }
    op.KernelDestroy(own);
  });
  op.KernelDestroy(shared);
  require_nothing_live();
}

// Lets the first call fail, the second, and so on, until `body` no longer meets the failure.
void for_every_failure(const char* what, const std::function<std::string()>& body) {
  for (int call = 1;; ++call) {
    require(call < 1000, what);
    fail_after(call);
    const std::string message = body();
    fail_after(0);
    require_nothing_live();
    if (message.empty()) {
      require(call > 1, what);  // or nothing was tried
      return;
    }
    require(message.find("asked for") != std::string::npos || message.find("node") != std::string::npos, what);
  }
}

void every_failure_is_passed_on() {
  const Api* api = gn::fake::new_runtime();
  const int domains = live().domains;
  for_every_failure("registration", [&] {
    SessionOptions options;
    std::string message = register_with(api, "1.32.0", &options);
    require(live().domains == domains || live().domains == domains + 2, "half a registration stayed");
    return message;
  });
  const CustomOp& op = find(api, "gn_onnx", "GroupNormalization", ElementType::kFloat);
  for_every_failure("shape inference", [&] {
    ShapeInferContext context;
    context.input = {{-1, 32, -1}, {"N", "", ""}};
    return message_of(*api, op.InferOutputShapeFn(&op, &context));
  });
  const std::vector<Value> values = tensors();
  const KernelInfo info = info_of(2);
  void* kernel = nullptr;
  require(message_of(*api, op.CreateKernelV2(&op, api, &info, &kernel)).empty(), "no kernel");
  for_every_failure("compute", [&] {
    Value y(values[0].shape, values[0].bytes);
    return run(*api, op, kernel, values, Order::kForward, &y);
  });
  op.KernelDestroy(kernel);
}

}  // namespace

int main() {
  versions_are_not_exceeded();
  an_older_runtime_gets_nothing();
  many_threads_register_at_once();
  many_threads_share_a_kernel();
  every_failure_is_passed_on();
  std::puts("ok");
  return 0;
}
