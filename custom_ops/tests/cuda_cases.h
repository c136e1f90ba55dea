// Reference, inputs and tolerances for the tests of the CUDA kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "emu/half_bits.h"
#include "gn/group_norm.h"

namespace gn::testing {

inline std::size_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

inline double read_element(const void* data, std::int64_t index, DType dtype) {
  const auto i = static_cast<std::size_t>(index);
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[i];
  return dtype == DType::kFloat16 ? emulation::float16_to_float(bits) : emulation::bfloat16_to_float(bits);
}

inline void write_element(void* data, std::int64_t index, DType dtype, double value) {
  const auto i = static_cast<std::size_t>(index);
  const auto v = static_cast<float>(value);
  if (dtype == DType::kFloat32) {
    static_cast<float*>(data)[i] = v;
  } else {
    static_cast<std::uint16_t*>(data)[i] =
        dtype == DType::kFloat16 ? emulation::float_to_float16(v) : emulation::float_to_bfloat16(v);
  }
}

enum class Input { kOrdinary, kLowVariance, kLargeMean, kNearFloat16Max };

constexpr const char* kInputNames[] = {"ordinary", "low variance", "large mean", "near float16's limit"};

// One draw from N(0, 1), shaped to the kind of input.
inline double shape_input(Input input, double normal, double epsilon, DType dtype) {
  switch (input) {
    case Input::kLowVariance:
      return normal * std::sqrt(epsilon);
    case Input::kLargeMean:
      // As many deviations as the type can still tell apart: 10^4 for float, 100 and 10 for the half types.
      return normal + (dtype == DType::kFloat32 ? 1e4 : dtype == DType::kFloat16 ? 100.0 : 10.0);
    case Input::kNearFloat16Max:
      return normal > 0 ? 60000.0 : -60000.0;
    case Input::kOrdinary:
      break;
  }
  return normal * 2.0 + 0.5;
}

inline double activate(double v, Activation activation, double alpha) {
  switch (activation) {
    case Activation::kRelu:
      return v < 0 ? 0.0 : v;
    case Activation::kSilu:
      return v / (1.0 + std::exp(-v));
    case Activation::kHardSwish:
      return v * std::fmax(0.0, std::fmin(1.0, v / 6.0 + 0.5));
    case Activation::kLeakyRelu:
      return v < 0 ? alpha * v : v;
    case Activation::kNone:
      break;
  }
  return v;
}

inline std::int64_t offset_of(const GroupNormProblem& p, std::int64_t sample, std::int64_t channel,
                              std::int64_t position) {
  const std::int64_t in_sample =
      p.layout == Layout::kChannelsFirst ? channel * p.spatial + position : position * p.channels + channel;
  return sample * p.channels * p.spatial + in_sample;
}

// The definition, in float64.
inline std::vector<double> reference(const GroupNormProblem& p, const void* x, const void* scale, const void* bias) {
  std::vector<double> y(static_cast<std::size_t>(p.batch * p.channels * p.spatial));
  const std::int64_t group_channels = p.channels / p.num_groups;
  const auto n = static_cast<double>(group_channels * p.spatial);
  for (std::int64_t sample = 0; sample < p.batch; ++sample) {
    for (std::int64_t group = 0; group < p.num_groups; ++group) {
      auto for_each = [&](auto visit) {
        for (std::int64_t c = group * group_channels; c < (group + 1) * group_channels; ++c) {
          for (std::int64_t s = 0; s < p.spatial; ++s) visit(c, offset_of(p, sample, c, s));
        }
      };
      double sum = 0;
      for_each([&](std::int64_t, std::int64_t at) { sum += read_element(x, at, p.dtype); });
      const double mean = sum / n;
      double squares = 0;
      for_each([&](std::int64_t, std::int64_t at) {
        const double d = read_element(x, at, p.dtype) - mean;
        squares += d * d;
      });
      const double rstd = 1.0 / std::sqrt(squares / n + p.epsilon);
      for_each([&](std::int64_t c, std::int64_t at) {
        const double v = (read_element(x, at, p.dtype) - mean) * rstd * read_element(scale, c, p.dtype) +
                         read_element(bias, c, p.dtype);
        y[static_cast<std::size_t>(at)] = activate(v, p.activation, static_cast<double>(p.alpha));
      });
    }
  }
  return y;
}

// Half a unit in the last place of the result's type is unavoidable; the rest is float32 arithmetic on values that are
// a few deviations large, plus the hard-to-avoid 10^4 * 2^-24 / std of inputs whose mean is 10^4 deviations (float
// only: x - pivot is exact, but x itself is what was rounded, and the reference sees the same rounded x, so nothing is
// lost).
inline double tolerance(DType dtype, double magnitude) {
  const double ulp = dtype == DType::kFloat32 ? 0x1p-23 : dtype == DType::kFloat16 ? 0x1p-10 : 0x1p-7;
  const double arithmetic = 16 * 0x1p-23 * (1.0 + magnitude);
  return 0.5 * ulp * magnitude * 1.01 + arithmetic + (dtype == DType::kFloat16 ? 0x1p-25 : 0.0);
}

inline std::string describe(const GroupNormProblem& p) {
  static constexpr const char* kTypes[] = {"float32", "float16", "bfloat16", "float64"};
  static constexpr const char* kActivations[] = {"none", "relu", "silu", "hard_swish", "leaky_relu"};
  return "N=" + std::to_string(p.batch) + " C=" + std::to_string(p.channels) + " S=" + std::to_string(p.spatial) +
         " G=" + std::to_string(p.num_groups) + " " + kTypes[static_cast<int>(p.dtype)] +
         (p.layout == Layout::kChannelsLast ? " channels-last " : " channels-first ") +
         kActivations[static_cast<int>(p.activation)];
}

}  // namespace gn::testing
