#include "ort/group_norm_op.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <string>
#include <utility>

#include "ort/group_norm_kernel.h"
#include "ort/handles.h"

namespace gn::ort {
namespace {

const GroupNormOp& self(const CustomOp* op) { return *static_cast<const GroupNormOp*>(op); }

ElementType element_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ElementType::kFloat;
    case DType::kFloat16:
      return ElementType::kFloat16;
    case DType::kBFloat16:
      return ElementType::kBFloat16;
    case DType::kFloat64:
      return ElementType::kDouble;
  }
  return ElementType::kUndefined;
}

// Y has the type and shape of X. A dimension without size and name would be passed on by ONNX Runtime as the size -1,
// which shape inference of later nodes takes at its word, and a shape that is not set as rank 0: so it gets a name that
// no other dimension has.
Status* infer_shape(const CustomOp* op, ShapeInferContext* context) {
  static std::atomic<std::uint64_t> unknown_dimensions{0};
  const Api& api = self(op).api();
  return guarded(api, [&] {
    TensorTypeAndShapeInfo* info = nullptr;
    check(api, api.ShapeInferContext_GetInputTypeShape(context, 0, &info));
    const Shape shape = shape_of(api, info);
    std::vector<const char*> names(shape.size(), nullptr);
    check(api, api.GetSymbolicDimensions(info, names.data(), names.size()));
    std::vector<std::string> texts(shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i) {
      texts[i] = names[i] == nullptr ? "" : names[i];
      if (shape[i] < 0 && texts[i].empty()) texts[i] = "gn_onnx_unknown_" + std::to_string(unknown_dimensions++);
      names[i] = texts[i].c_str();
    }
    check(api, api.SetSymbolicDimensions(info, names.data(), names.size()));
    check(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, info));
  });
}

struct NamedActivation {
  const char* suffix;
  Activation activation;
};

constexpr NamedActivation kActivations[] = {{"", Activation::kNone},
                                            {"Relu", Activation::kRelu},
                                            {"Silu", Activation::kSilu},
                                            {"HardSwish", Activation::kHardSwish},
                                            {"LeakyRelu", Activation::kLeakyRelu}};
constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};

// The CUDA kernels have no float64: such a node runs on the CPU provider.
bool has_kernel(Provider provider, DType dtype) {
#if GN_WITH_CUDA
  return provider == Provider::kCpu || dtype != DType::kFloat64;
#else
  static_cast<void>(dtype);
  return provider == Provider::kCpu;
#endif
}

}  // namespace

GroupNormOp::GroupNormOp(OpSpec spec, const Runtime& runtime) : CustomOp{}, spec_(std::move(spec)), api_(runtime.api) {
  version = std::min(runtime.version, kInPlaceVersion);  // some runtimes refuse what is newer than themselves
  GetName = [](const CustomOp* op) { return self(op).spec().name.c_str(); };
  GetExecutionProviderType = [](const CustomOp* op) -> const char* {
    return self(op).spec().provider == Provider::kCuda ? "CUDAExecutionProvider" : "CPUExecutionProvider";
  };
  GetInputType = [](const CustomOp* op, std::size_t) { return element_type(self(op).spec().dtype); };
  GetInputTypeCount = [](const CustomOp*) -> std::size_t { return 3; };
  GetOutputType = [](const CustomOp* op, std::size_t) { return element_type(self(op).spec().dtype); };
  GetOutputTypeCount = [](const CustomOp*) -> std::size_t { return 1; };
  GetInputCharacteristic = [](const CustomOp*, std::size_t) { return InputOutput::kRequired; };
  GetOutputCharacteristic = [](const CustomOp*, std::size_t) { return InputOutput::kRequired; };
  GetInputMemoryType = [](const CustomOp*, std::size_t) { return MemoryType::kDefault; };
  GetVariadicInputMinArity = [](const CustomOp*) { return 1; };
  GetVariadicInputHomogeneity = [](const CustomOp*) { return 1; };
  GetVariadicOutputMinArity = [](const CustomOp*) { return 1; };
  GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
  CreateKernelV2 = [](const CustomOp* op, const Api* api_used, const KernelInfo* info, void** kernel) {
    return guarded(*api_used, [&] { *kernel = new GroupNormKernel(self(op).spec(), *api_used, info); });
  };
  KernelComputeV2 = [](void* kernel, KernelContext* context) {
    const auto* group_norm = static_cast<const GroupNormKernel*>(kernel);
    return guarded(group_norm->api(), [&] { group_norm->compute(context); });
  };
  KernelDestroy = [](void* kernel) { delete static_cast<GroupNormKernel*>(kernel); };
  InferOutputShapeFn = infer_shape;
  GetStartVersion = [](const CustomOp* op) { return self(op).spec().since_version; };
  GetEndVersion = [](const CustomOp*) { return std::numeric_limits<int>::max(); };
  GetMayInplace = [](int** inputs, int** outputs) -> std::size_t {
    static int x = 0;
    static int y = 0;
    *inputs = &x;
    *outputs = &y;
    return 1;
  };
  ReleaseMayInplace = [](int*, int*) {};
}

std::vector<std::unique_ptr<GroupNormOp>> make_ops(const std::string& domain, const Runtime& runtime) {
  std::vector<std::unique_ptr<GroupNormOp>> ops;
  const auto add = [&](OpSpec spec) {
    for (const Provider provider : {Provider::kCpu, Provider::kCuda}) {
      for (const DType dtype : kTypes) {
        if (!has_kernel(provider, dtype)) continue;
        spec.provider = provider;
        spec.dtype = dtype;
        ops.push_back(std::make_unique<GroupNormOp>(spec, runtime));
      }
    }
  };
  OpSpec spec;
  spec.domain = domain;
  if (domain.empty()) {
    spec.name = "GroupNormalization";
    spec.since_version = 21;  // scale per channel; in opset 18 it was per group
    add(spec);
    return ops;
  }
  for (const Layout layout : {Layout::kChannelsFirst, Layout::kChannelsLast}) {
    for (const NamedActivation& named : kActivations) {
      spec.layout = layout;
      spec.activation = named.activation;
      spec.name =
          std::string("GroupNormalization") + (layout == Layout::kChannelsLast ? "ChannelsLast" : "") + named.suffix;
      add(spec);
    }
  }
  return ops;
}

}  // namespace gn::ort
