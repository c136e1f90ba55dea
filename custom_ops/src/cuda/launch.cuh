// Puts one kernel on a stream, or, under emulation, runs it.
#pragma once

#include "plan.h"
#ifdef GN_EMULATE
#include "emu/emulator.h"
#else
#include <cuda_runtime.h>

#include <array>
#include <atomic>
#endif

namespace gn::cuda {

struct LaunchShape {
  std::int64_t blocks = 0;
  int threads = 0;
  int cluster = 1;
  std::int64_t shared_bytes = 0;
  bool overlaps_previous = false;  // may start before the stream's previous launch has ended: the kernel waits for it
};

#ifdef GN_EMULATE

template <auto kKernel, typename Params>
CudaError launch(const Params& params, const LaunchShape& shape, void* /*stream*/) {
  emulation::run({shape.blocks, shape.threads, shape.cluster, static_cast<std::size_t>(shape.shared_bytes),
                  shape.overlaps_previous, emulation::backwards()},
                 [&params] { kKernel(params); });
  return 0;
}

#else

// Lets the kernel use all the shared memory that a block may have and, where asked, clusters beyond the portable size.
// Once per kernel and device; doing it twice at once is harmless.
template <auto kKernel>
cudaError_t prepare(bool large_cluster) {
  constexpr int kMaxDevices = 64;
  static std::array<std::array<std::atomic<bool>, 2>, kMaxDevices> prepared{};
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  std::atomic<bool>* done = device < kMaxDevices ? &prepared[static_cast<std::size_t>(device)][large_cluster] : nullptr;
  if (done != nullptr && done->load(std::memory_order_acquire)) return cudaSuccess;
  int shared = 0;
  cudaError_t error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (error == cudaSuccess && large_cluster) {
    error = cudaFuncSetAttribute(kKernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  if (error == cudaSuccess && done != nullptr) done->store(true, std::memory_order_release);
  return error;
}

template <auto kKernel, typename Params>
CudaError launch(const Params& params, const LaunchShape& shape, void* stream) {
  if (const cudaError_t error = prepare<kKernel>(shape.cluster > kPortableCluster); error != cudaSuccess) return error;
  std::array<cudaLaunchAttribute, 2> attributes{};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes.data();
  if (shape.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  if (shape.overlaps_previous) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  const cudaError_t error = cudaLaunchKernelEx(&config, kKernel, params);
  // The caller is told; whoever asks for the last error next should not be.
  if (error != cudaSuccess) static_cast<void>(cudaGetLastError());
  return error;
}

#endif

}  // namespace gn::cuda
