// The device's side of device.cuh. Only inline assembly and compiler intrinsics are here.
#pragma once

namespace gn::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kThreadsPerMultiprocessor = 1024;
#else
constexpr int kThreadsPerMultiprocessor = 1536;  // 2048 on some; no kernel asks for more
#endif

// For __launch_bounds__: how many blocks the registers must leave room for, `wanted` where the device has the threads.
constexpr int blocks_at_once(int threads, int wanted) {
  return wanted * threads <= kThreadsPerMultiprocessor ? wanted : kThreadsPerMultiprocessor / threads;
}

// All shared memory is dynamic: a block has one region and its kernel lays it out.
GN_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char region[];
  return region;
}

GN_DEVICE void block_barrier() { __syncthreads(); }

GN_DEVICE float shuffle_xor(float value, int lane_mask) { return __shfl_xor_sync(0xffffffffU, value, lane_mask); }

GN_DEVICE std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) { return __umulhi(a, b); }

// Makes the compiler forget how the value came about. Without it the floats that one pass unpacked are kept for the
// next pass, in twice the registers that the packed value takes.
GN_DEVICE void forget(Bits128& bits) {
  asm volatile("" : "+r"(bits.word[0]), "+r"(bits.word[1]), "+r"(bits.word[2]), "+r"(bits.word[3]));
}

// Reads what this kernel reads once: it should not push other data out of the L2 cache.
GN_DEVICE Bits128 load_once(const Bits128* address) {
  const uint4 value = __ldcs(reinterpret_cast<const uint4*>(address));
  return {{value.x, value.y, value.z, value.w}};
}

// Reads what the next launch reads again.
GN_DEVICE Bits128 load_again(const Bits128* address) {
  const uint4 value = __ldcg(reinterpret_cast<const uint4*>(address));
  return {{value.x, value.y, value.z, value.w}};
}

// A plain assignment became four stores of 4 bytes in some kernels.
GN_DEVICE void store_128(Bits128* address, const Bits128& bits) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)), "r"(bits.word[0]),
               "r"(bits.word[1]), "r"(bits.word[2]), "r"(bits.word[3])
               : "memory");
}

// 16 bytes from global to shared memory behind the thread's back. The thread that copied may read them after
// async_wait, other threads after a block_barrier as well. Before sm_80 the copy is done at once.
GN_DEVICE void async_copy_16(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}

// Ends a batch of copies.
GN_DEVICE void async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kPending of this thread's latest batches are not complete.
template <int kPending>
GN_DEVICE void async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// The blocks of a cluster run at the same time and may write each other's shared memory (sm_90 and newer; the plan asks
// for no cluster elsewhere). Each arrive is followed by one wait; what was stored before the one is seen after the
// other.
GN_DEVICE void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

GN_DEVICE void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Stores 16 bytes where `shared`, an address in this block, lies in block `rank` of the cluster.
GN_DEVICE void cluster_store(void* shared, int rank, Bits128 value) {
#if __CUDA_ARCH__ >= 900
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  std::uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(remote), "r"(value.word[0]),
               "r"(value.word[1]), "r"(value.word[2]), "r"(value.word[3])
               : "memory");
#endif
}

// Lets the next launch of the stream start as soon as multiprocessors come free.
GN_DEVICE void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the previous launch of the stream is complete and its stores can be seen.
GN_DEVICE void wait_for_previous_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

GN_DEVICE float exponential(float value) { return expf(value); }
GN_DEVICE float exponential_fast(float value) { return __expf(value); }
// At most 2 units in the last place off.
GN_DEVICE float reciprocal_root_fast(float value) { return rsqrtf(value); }
// At most 2 units in the last place off; 0 for a divisor above 2^126, where silu is 0 or a subnormal anyway.
GN_DEVICE float divide_fast(float a, float b) { return __fdividef(a, b); }

GN_DEVICE float float16_to_float(std::uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

GN_DEVICE std::uint16_t float_to_float16(float value) {
  std::uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

GN_DEVICE float bfloat16_to_float(std::uint16_t bits) {
  return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
}

GN_DEVICE std::uint16_t float_to_bfloat16(float value) {
#if __CUDA_ARCH__ >= 800
  std::uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  const std::uint32_t word = __float_as_uint(value);
  if (value != value) return 0x7fff;
  return static_cast<std::uint16_t>((word + 0x7fffU + ((word >> 16) & 1U)) >> 16);
#endif
}

}  // namespace gn::cuda
