// Coverage-guided fuzzing of everything that ONNX Runtime calls: bytes become a runtime, a node, its tensors and a
// failure at the n-th call. Whatever they say, the library answers with a status that has a message or with a whole
// result, gives back what it was handed, and the result has the same bits in any order of work, in place and the second
// time.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>

#include "fake_runtime.h"

extern "C" gn::ort::Status* RegisterCustomOps(gn::ort::SessionOptions*, const gn::ort::ApiBase*);

namespace {

using namespace gn::ort;
using gn::fake::broken;
using gn::fake::live;
using gn::fake::message_of;

constexpr std::int64_t kMostElements = 1 << 16;

// Reads the input; zeros where it has ended.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), end_(data + size) {}
  std::uint8_t byte() { return data_ == end_ ? std::uint8_t{0} : *data_++; }
  template <typename T>
  T number() {
    std::array<std::uint8_t, sizeof(T)> raw;
    for (std::uint8_t& b : raw) b = byte();
    T value;
    std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }

 private:
  const std::uint8_t* data_;
  const std::uint8_t* end_;
};

struct Runtime {
  const Api* api;
  const char* version;
};

const Runtime& runtime(std::size_t index) {
  static const auto& all = *[] {
    auto* made = new std::vector<Runtime>;  // stays: the library has pointers to them
    for (const char* version :
         {"1.17.0", "1.18.1", "1.32.0", "", "1.", "2.0.0", "1.99999999999999999999", "x", "1.17", "1.4294967313.0"}) {
      made->push_back({gn::fake::new_runtime(), version});
    }
    return made;
  }();
  return all[index % all.size()];
}

void attribute(Bytes& in, KernelInfo* info, const char* name, std::int64_t usual, float usual_float) {
  switch (in.byte() % 8) {
    case 0:
      info->attributes[name] = in.number<std::int64_t>();
      break;
    case 1:
      info->attributes[name] = in.number<float>();
      break;
    case 2:
      info->attributes[name] = std::string("text");
      break;
    case 3:
      break;
    case 4:
      info->attributes[name] = static_cast<std::int64_t>(in.byte() % 16);
      break;
    default:
      if (usual_float != 0) {
        info->attributes[name] = usual_float;
      } else {
        info->attributes[name] = usual;
      }
  }
}

// Sizes whose product is small, or with a 0 among sizes of any magnitude.
std::vector<std::int64_t> shape_from(Bytes& in) {
  std::vector<std::int64_t> shape(in.byte() % 7);
  bool empty = false;
  for (std::int64_t& dim : shape) {
    const std::uint8_t b = in.byte();
    dim = b < 200 ? b % 9 : b < 250 ? (b - 199) * 8 : (std::int64_t{1} << (b - 250) * 10) * 3;
    empty = empty || dim == 0;
  }
  std::int64_t count = 1;
  for (std::int64_t& dim : shape) {
    if (!empty && dim > kMostElements / count) dim = 1;
    if (!empty) count *= dim;
  }
  return shape;
}

std::size_t bytes_of(const std::vector<std::int64_t>& shape, std::size_t element) {
  std::size_t count = 1;
  for (const std::int64_t dim : shape) count = dim == 0 || count == 0 ? 0 : count * static_cast<std::size_t>(dim);
  return count * element;
}

std::size_t element_size(ElementType type) {
  return type == ElementType::kDouble ? 8 : type == ElementType::kFloat ? 4 : 2;
}

// A few bit patterns, repeated: any bits at all, infinities and NaN among them.
void fill(Bytes& in, Value* value) {
  std::array<std::uint8_t, 32> pattern;
  for (std::uint8_t& b : pattern) b = in.byte();
  const std::size_t step = 1 + in.byte() % 7;
  for (std::size_t i = 0; i < value->bytes; ++i) {
    value->data[i] = static_cast<std::byte>(pattern[(i * step + i / 64) % pattern.size()]);
  }
}

Value copy_of(const Value& value) {
  Value copy(value.shape, value.bytes);
  if (value.bytes != 0) std::memcpy(copy.data.get(), value.data.get(), value.bytes);
  return copy;
}

void infer_shape(Bytes& in, const Api& api, const CustomOp& op) {
  ShapeInferContext context;
  context.input.dims.resize(in.byte() % 7);
  for (std::int64_t& dim : context.input.dims) dim = in.byte() % 3 == 0 ? in.number<std::int64_t>() : -1;
  for (std::size_t i = 0; i < context.input.dims.size(); ++i) context.input.names.emplace_back(in.byte() % 3, 'n');
  const auto before = context.input.dims;
  gn::fake::fail_after(in.byte() % 8);
  const bool failed = !message_of(api, op.InferOutputShapeFn(&op, &context)).empty();
  gn::fake::fail_after(0);
  if (failed) return;
  if (!context.set || context.output.dims != before) broken("Y does not have the inferred shape of X");
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (before[i] < 0 && context.output.names[i].empty()) broken("an unknown dimension has no name");
  }
}

// The result, or nothing where the kernel refused.
std::optional<Value> run(const Api& api, const CustomOp& op, void* kernel, const std::vector<const Value*>& inputs,
                         Order order, bool in_place) {
  Value y = in_place ? copy_of(*inputs[0]) : Value(inputs[0]->shape, inputs[0]->bytes);
  KernelContext context{inputs, &y, order};
  if (in_place) context.inputs[0] = &y;
  Status* status = op.KernelComputeV2(kernel, &context);
  gn::fake::fail_after(0);
  if (!message_of(api, status).empty()) return std::nullopt;
  return y;
}

void compute(Bytes& in, const Api& api, const CustomOp& op, void* kernel) {
  const std::size_t element = element_size(op.GetInputType(&op, 0));
  const auto shape = shape_from(in);
  std::int64_t channels = 1;
  if (shape.size() > 1) channels = std::strstr(op.GetName(&op), "ChannelsLast") != nullptr ? shape.back() : shape[1];
  std::vector<Value> values;
  values.emplace_back(shape, bytes_of(shape, element));
  for (int i = 0; i < 2; ++i) {
    const std::uint8_t how = in.byte() % 8;
    auto of = how == 0 ? shape_from(in) : std::vector<std::int64_t>{how == 1 ? 1 : std::min(channels, kMostElements)};
    const std::size_t bytes = bytes_of(of, element);
    values.emplace_back(std::move(of), bytes);
  }
  for (Value& value : values) fill(in, &value);
  std::vector<const Value*> inputs;
  const std::size_t count = in.byte() % 16 == 15 ? in.byte() % 5 : 3;
  for (std::size_t i = 0; i < count; ++i) inputs.push_back(&values[i % 3]);
  if (inputs.empty()) inputs.push_back(&values[0]);
  gn::fake::fail_after(in.byte() % 4 == 3 ? in.byte() % 32 : 0);
  const auto first = run(api, op, kernel, inputs, Order::kForward, false);
  if (!first) return;
  for (const Order order : {Order::kForward, Order::kBackward}) {
    for (const bool in_place : {false, true}) {
      const auto again = run(api, op, kernel, inputs, order, in_place);
      if (!again) broken("a node that ran is refused the second time");
      if (first->bytes != 0 && std::memcmp(again->data.get(), first->data.get(), first->bytes) != 0) {
        broken("other bits the second time");
      }
    }
  }
}

void use(Bytes& in, const Api& api, const CustomOp& op) {
  for (std::size_t i = 0; i < op.GetInputTypeCount(&op); ++i) {
    if (op.GetInputType(&op, i) != op.GetOutputType(&op, 0)) broken("inputs and output of different types");
  }
  KernelInfo info;
  info.node.assign(in.byte() % 4 * 40, 'n');
  attribute(in, &info, "num_groups", 1 + in.byte() % 4, 0);
  attribute(in, &info, "epsilon", 0, 1e-5F);
  attribute(in, &info, "stash_type", 1, 0);
  attribute(in, &info, "alpha", 0, 0.25F);
  infer_shape(in, api, op);
  gn::fake::fail_after(in.byte() % 4 == 3 ? in.byte() % 8 : 0);
  void* kernel = nullptr;
  const std::string error = message_of(api, op.CreateKernelV2(&op, &api, &info, &kernel));
  gn::fake::fail_after(0);
  if (error.empty() != (kernel != nullptr)) broken("a kernel and an error, or neither");
  if (kernel == nullptr) return;
  for (int runs = 1 + in.byte() % 3; runs > 0; --runs) compute(in, api, op, kernel);
  op.KernelDestroy(kernel);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes in(data, size);
  const Runtime& chosen = runtime(in.byte());
  const ApiBase base = gn::fake::base_of(chosen.api, chosen.version);
  SessionOptions options;
  const int domains = live().domains;
  gn::fake::fail_after(in.byte() % 4 == 3 ? in.byte() : 0);
  const std::string error = message_of(*chosen.api, RegisterCustomOps(&options, &base));
  gn::fake::fail_after(0);
  if (error.empty()) {
    if (options.domains.size() != 2) broken("not two domains");
    const auto& ops = options.domains[in.byte() % 2]->ops;
    use(in, *chosen.api, *ops[in.byte() % ops.size()]);
  }
  const auto& counts = live();
  if (counts.statuses != 0 || counts.infos != 0 || counts.allocators != 0 || counts.blocks != 0) {
    broken("something was not given back");
  }
  // A runtime's two domains stay once they are complete.
  if (counts.domains != domains && counts.domains != domains + 2) broken("half a registration stayed");
  return 0;
}
