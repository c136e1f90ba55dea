// The host's side of device.cuh: the same functions as device_nvcc.cuh, by the emulator and the host's arithmetic.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "emu/emulator.h"
#include "emu/half_bits.h"

#define __global__
#define __launch_bounds__(...)
#define threadIdx (::gn::emulation::thread_index())
#define blockIdx (::gn::emulation::block_index())
#define blockDim (::gn::emulation::block_dim())
#define gridDim (::gn::emulation::grid_dim())

namespace gn::cuda {

GN_DEVICE unsigned char* shared_memory() { return emulation::shared_region(); }

GN_DEVICE void block_barrier() { emulation::wait_for_block(); }

GN_DEVICE float shuffle_xor(float value, int lane_mask) { return emulation::exchange_in_warp(value, lane_mask); }

GN_DEVICE std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>((static_cast<std::uint64_t>(a) * b) >> 32);
}

GN_DEVICE void forget(Bits128& /*bits*/) {}

GN_DEVICE Bits128 load_once(const Bits128* address) { return *address; }
GN_DEVICE Bits128 load_again(const Bits128* address) {
  emulation::need_previous();  // x is no result of the launch before and is read with load_once there
  return *address;
}

GN_DEVICE void store_128(Bits128* address, const Bits128& bits) {
  emulation::need_previous();
  *address = bits;
}

GN_DEVICE void async_copy_16(void* shared, const void* global) { emulation::copy_later(shared, global, 16); }
GN_DEVICE void async_commit() { emulation::end_of_copies(); }
template <int kPending>
GN_DEVICE void async_wait() {
  emulation::wait_for_copies(kPending);
}

GN_DEVICE void cluster_arrive() { emulation::arrive_at_cluster(); }
GN_DEVICE void cluster_wait() { emulation::wait_for_cluster(); }
GN_DEVICE void cluster_store(void* shared, int rank, Bits128 value) {
  emulation::store_to_peer(shared, rank, &value, sizeof(value));
}

// Launches run one after another here, but a kernel that may overlap has to wait all the same.
GN_DEVICE void launch_dependents() {}
GN_DEVICE void wait_for_previous_launch() { emulation::wait_for_previous(); }

GN_DEVICE float exponential(float value) { return std::exp(value); }
GN_DEVICE float exponential_fast(float value) { return std::exp(value); }
GN_DEVICE float reciprocal_root_fast(float value) {
  return 1.0F / std::sqrt(value) * (1.0F + std::numeric_limits<float>::epsilon());  // as far off as the device's may be
}
GN_DEVICE float divide_fast(float a, float b) { return a / b; }

GN_DEVICE float float16_to_float(std::uint16_t bits) { return emulation::float16_to_float(bits); }
GN_DEVICE std::uint16_t float_to_float16(float value) { return emulation::float_to_float16(value); }
GN_DEVICE float bfloat16_to_float(std::uint16_t bits) { return emulation::bfloat16_to_float(bits); }
GN_DEVICE std::uint16_t float_to_bfloat16(float value) { return emulation::float_to_bfloat16(value); }

}  // namespace gn::cuda
