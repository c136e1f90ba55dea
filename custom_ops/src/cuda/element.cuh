// The three element types, and how one becomes a float and back. Arithmetic is in float only: 60000 - (-60000) does not
// fit float16.
#pragma once

#include "device.cuh"

namespace gn::cuda {

struct Float16 {
  std::uint16_t bits;
};

struct BFloat16 {
  std::uint16_t bits;
};

GN_DEVICE float to_float(float value) { return value; }
GN_DEVICE float to_float(Float16 value) { return float16_to_float(value.bits); }
GN_DEVICE float to_float(BFloat16 value) { return bfloat16_to_float(value.bits); }

template <typename T>
GN_DEVICE T from_float(float value);
template <>
GN_DEVICE float from_float<float>(float value) {
  return value;
}
template <>
GN_DEVICE Float16 from_float<Float16>(float value) {
  return {float_to_float16(value)};
}
template <>
GN_DEVICE BFloat16 from_float<BFloat16>(float value) {
  return {float_to_bfloat16(value)};
}

}  // namespace gn::cuda
