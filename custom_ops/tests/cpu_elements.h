// Element types as a test sees them: bits in memory, values in long double. Written apart from the kernels' own code.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "gn/group_norm.h"

namespace gn::test {

struct Type {
  DType dtype;
  const char* name;
  std::size_t bytes;
  int digits;       // of the significand, the hidden one included
  int work_digits;  // of the type that is computed in
  double largest;
  double smallest;  // subnormal
};

inline constexpr Type kTypes[] = {
    {DType::kFloat32, "float32", 4, 24, 24, 3.4028234663852886e38, 0x1p-149},
    {DType::kFloat16, "float16", 2, 11, 24, 65504.0, 0x1p-24},
    {DType::kBFloat16, "bfloat16", 2, 8, 24, 3.3895313892515355e38, 0x1p-133},
    {DType::kFloat64, "float64", 8, 53, 53, 1.7976931348623157e308, 0x0.0000000000001p-1022},
};

// The nearest number of the type, ties to even.
inline double rounded(const Type& type, double value) {
  if (value == 0.0 || !std::isfinite(value)) return value;
  int exponent = 0;
  std::frexp(value, &exponent);
  const double lowest = std::ilogb(type.smallest);
  const double step = std::ldexp(1.0, static_cast<int>(std::max<double>(exponent - type.digits, lowest)));
  const double result = std::nearbyint(value / step) * step;
  if (std::abs(result) > type.largest) return std::copysign(std::numeric_limits<double>::infinity(), result);
  return result;
}

inline double read(const Type& type, const std::byte* p) {
  if (type.dtype == DType::kFloat64) {
    double value;
    std::memcpy(&value, p, sizeof(value));
    return value;
  }
  if (type.dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, p, sizeof(value));
    return static_cast<double>(value);
  }
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  if (type.dtype == DType::kBFloat16) {
    return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
  }
  const double sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  if (exponent == 31) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  return sign * (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
}

// `value` must be a number of the type.
inline void write(const Type& type, std::byte* p, double value) {
  if (type.dtype == DType::kFloat64) {
    std::memcpy(p, &value, sizeof(value));
    return;
  }
  const auto single = static_cast<float>(value);
  if (type.dtype == DType::kFloat32) {
    std::memcpy(p, &single, sizeof(single));
    return;
  }
  std::uint32_t bits = std::bit_cast<std::uint32_t>(single) >> 16;
  if (type.dtype == DType::kFloat16) {
    const std::uint32_t sign = std::signbit(value) ? 0x8000U : 0U;
    const double magnitude = std::abs(value);
    if (std::isnan(value)) {
      bits = 0x7E00U;
    } else if (std::isinf(value)) {
      bits = sign | 0x7C00U;
    } else if (magnitude < 0x1p-14) {
      bits = sign | static_cast<std::uint32_t>(magnitude * 0x1p24);
    } else {
      const int exponent = std::ilogb(magnitude);
      const double mantissa = std::ldexp(magnitude, 10 - exponent) - 1024.0;
      bits = sign | (static_cast<std::uint32_t>(exponent + 15) << 10) | static_cast<std::uint32_t>(mantissa);
    }
  }
  const auto narrow = static_cast<std::uint16_t>(bits);
  std::memcpy(p, &narrow, sizeof(narrow));
}

}  // namespace gn::test
