// One operator for one element type on one execution provider: the description ONNX Runtime asks for, and its kernel.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gn/group_norm.h"
#include "ort/abi.h"

namespace gn::ort {

enum class Provider { kCpu, kCuda };

struct OpSpec {
  std::string domain;  // "" is ai.onnx
  std::string name;
  int since_version = 1;
  Layout layout = Layout::kChannelsFirst;
  Activation activation = Activation::kNone;
  DType dtype = DType::kFloat32;
  Provider provider = Provider::kCpu;
};

// The ONNX Runtime that registers us.
struct Runtime {
  const Api* api;
  std::uint32_t version;  // the newest API version that it has
};

// The base class is what ONNX Runtime sees; it keeps the pointer for as long as a session that uses it lives.
class GroupNormOp : public CustomOp {
 public:
  GroupNormOp(OpSpec spec, const Runtime& runtime);
  const OpSpec& spec() const { return spec_; }
  const Api& api() const { return *api_; }

 private:
  OpSpec spec_;
  const Api* api_;
};

// Every operator of one domain.
std::vector<std::unique_ptr<GroupNormOp>> make_ops(const std::string& domain, const Runtime& runtime);

inline constexpr const char* kDomain = "gn_onnx";

}  // namespace gn::ort
