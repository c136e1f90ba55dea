// The kernel object of one node: attributes read once, inputs checked on every run.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "ort/group_norm_op.h"
#include "ort/handles.h"
#include "ort/stream_scratch.h"

namespace gn::ort {

class GroupNormKernel {
 public:
  // Throws Error when an attribute is missing or impossible.
  GroupNormKernel(const OpSpec& spec, const Api& api, const KernelInfo* info);
  // Throws Error when the inputs do not fit or the device fails.
  void compute(KernelContext* context) const;
  const Api& api() const { return api_; }

 private:
  struct Inputs;
  void read_attributes(const KernelInfo* info);
  Shape checked_shape(const Inputs& inputs) const;
  bool broadcasts_scale() const;
  const void* per_channel(const Value* value, const GroupNormProblem& problem, std::vector<std::byte>* storage) const;
  void run_cpu(KernelContext* context, const GroupNormProblem& problem, const Inputs& inputs,
               const GroupNormBuffers& buffers) const;
  void run_cuda(KernelContext* context, const GroupNormProblem& problem, const Inputs& inputs,
                const GroupNormBuffers& buffers, const Shape& shape) const;
  [[noreturn]] void fail(const std::string& what, ErrorCode code = ErrorCode::kInvalidArgument) const;

  const OpSpec& spec_;
  const Api& api_;
  std::string node_;
  GroupNormProblem attributes_;
  mutable StreamScratch device_scratch_;
};

}  // namespace gn::ort
