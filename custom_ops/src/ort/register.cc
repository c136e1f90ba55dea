// What the library exports: the entry point that ONNX Runtime looks for, and a description of the build.

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "gn/group_norm_cpu.h"
#include "ort/group_norm_op.h"
#include "ort/handles.h"

#define GN_EXPORT extern "C" __attribute__((visibility("default")))

namespace gn::ort {
namespace {

// ONNX Runtime's list of operators; the operators themselves have to outlive it.
using Domain = std::unique_ptr<CustomOpDomain, void (*)(CustomOpDomain*)>;

struct Registered {
  std::vector<std::unique_ptr<GroupNormOp>> ops;
  Domain domain;
};

Registered make_domain(const Runtime& runtime, const char* name) {
  const Api& api = *runtime.api;
  CustomOpDomain* domain = nullptr;
  check(api, api.CreateCustomOpDomain(name, &domain));
  Registered made{{}, Domain(domain, api.ReleaseCustomOpDomain)};
  made.ops = make_ops(name, runtime);
  for (const auto& op : made.ops) check(api, api.CustomOpDomain_Add(domain, op.get()));
  return made;
}

// Sessions keep pointers to operators and domains, and nothing tells when the last one is gone: they live as long as
// the process. They are made once for each runtime that is loaded (two can be, of different versions).
std::vector<CustomOpDomain*> domains_for(const Runtime& runtime) {
  const Api& api = *runtime.api;
  static std::mutex mutex;
  static auto* all = new std::vector<std::pair<const Api*, std::vector<Registered>>>();
  const std::lock_guard lock(mutex);
  std::vector<CustomOpDomain*> out;
  for (const auto& [known, registered] : *all) {
    if (known == &api) {
      for (const Registered& r : registered) out.push_back(r.domain.get());
      return out;
    }
  }
  std::vector<Registered> made;
  for (const char* name : {kDomain, ""}) made.push_back(make_domain(runtime, name));
  for (const Registered& r : made) out.push_back(r.domain.get());
  all->emplace_back(&api, std::move(made));
  return out;
}

// The 18 of "1.18.0"; kApiVersion where it does not look like that.
std::uint32_t newest_version(const ApiBase& base) {
  const std::string text = base.GetVersionString();
  if (text.rfind("1.", 0) != 0) return kApiVersion;
  std::uint32_t version = 0;
  for (std::size_t i = 2; i < text.size() && text[i] >= '0' && text[i] <= '9' && version < 1000; ++i) {
    version = version * 10 + static_cast<std::uint32_t>(text[i] - '0');
  }
  return std::max(version, kApiVersion);
}

}  // namespace
}  // namespace gn::ort

GN_EXPORT gn::ort::Status* RegisterCustomOps(gn::ort::SessionOptions* options, const gn::ort::ApiBase* base) {
  const gn::ort::Api* api = base->GetApi(gn::ort::kApiVersion);
  if (api == nullptr) return nullptr;  // older than 1.17: it has said so on stderr and has no kernels of ours
  return gn::ort::guarded(*api, [&] {
    for (gn::ort::CustomOpDomain* domain : gn::ort::domains_for({api, gn::ort::newest_version(*base)})) {
      gn::ort::check(*api, api->AddCustomOpDomain(options, domain));
    }
  });
}

// JSON: version, CPU instruction set chosen, whether CUDA kernels are inside, and for which architectures.
GN_EXPORT const char* gn_onnx_build_info() {
  static const std::string info = std::string(R"({"version": ")") + GN_VERSION + R"(", "cpu_isa": ")" +
                                  gn::group_norm_cpu_isa() + R"(", "cuda": )" + (GN_WITH_CUDA ? "true" : "false") +
                                  R"(, "cuda_architectures": ")" + GN_CUDA_ARCHS + R"(", "domain": ")" +
                                  gn::ort::kDomain + R"("})";
  return info.c_str();
}
