// float16 and bfloat16 one at a time.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace gn::GN_ISA {

struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

inline float to_wide(float value) { return value; }
inline double to_wide(double value) { return value; }
inline float to_wide(BFloat16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

#if defined(__F16C__)
inline float to_wide(Half value) { return _cvtsh_ss(value.bits); }
#else
inline float to_wide(Half value) {
  const std::uint32_t magnitude = (value.bits & 0x7FFFU) << 13;
  const std::uint32_t finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const std::uint32_t bits = magnitude >= (0x7C00U << 13) ? magnitude | 0x7F800000U : finite;
  return std::bit_cast<float>(bits | ((value.bits & 0x8000U) << 16));
}

// Rounds to nearest, ties to even.
inline std::uint16_t to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t half;
  if (magnitude > 0x7F800000U) {
    half = 0x7E00U;
  } else if (magnitude >= 0x477FF000U) {  // rounds to 65536 or above
    half = 0x7C00U;
  } else if (magnitude < 0x38800000U) {  // subnormal: adding 0.5 leaves the rounded value in the low mantissa bits
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3F000000U;
  } else {
    half = (magnitude - 0x38000000U + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}
#endif

}  // namespace gn::GN_ISA
