// One GroupNorm to test: its tensors, and what the definition makes of them in long double.
#pragma once

#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "cpu_elements.h"
#include "gn/group_norm.h"

namespace gn::test {

enum class Input { kOrdinary, kLowVariance, kLargeMean, kNearLargest, kSubnormal, kConstant, kMisleading, kWideResult };
inline constexpr Input kInputs[] = {Input::kOrdinary,  Input::kLowVariance, Input::kLargeMean,  Input::kNearLargest,
                                    Input::kSubnormal, Input::kConstant,    Input::kMisleading, Input::kWideResult};
inline constexpr const char* kInputNames[] = {"ordinary",  "low variance", "large mean", "near the largest",
                                              "subnormal", "constant",     "misleading", "wide result"};

// A tensor of one type with guarded ends, `offset` elements past an aligned address.
class Tensor {
 public:
  Tensor(const Type& type, std::int64_t count, std::int64_t offset)
      : type_(&type),
        count_(static_cast<std::size_t>(count)),
        begin_(kGuard + static_cast<std::size_t>(offset) * type.bytes),
        memory_(begin_ + count_ * type.bytes + 2 * kGuard, kPoison) {}
  std::byte* data() { return aligned() + begin_; }
  const std::byte* data() const { return const_cast<Tensor*>(this)->data(); }
  std::size_t count() const { return count_; }
  std::size_t bytes() const { return count_ * type_->bytes; }
  double get(std::size_t i) const { return read(*type_, data() + i * type_->bytes); }
  void set(std::size_t i, double value) { write(*type_, data() + i * type_->bytes, rounded(*type_, value)); }
  bool guards_intact() const {
    const std::byte* end = data() + bytes();
    for (std::size_t i = 1; i <= kGuard - 64; ++i) {
      if (*(data() - i) != kPoison || *(end + i - 1) != kPoison) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t kGuard = 192;
  static constexpr std::byte kPoison{0xA5};
  std::byte* aligned() {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (64 - address % 64) % 64;
  }
  const Type* type_;
  std::size_t count_;
  std::size_t begin_;
  std::vector<std::byte> memory_;
};

struct Problem {
  const Type* type;
  GroupNormProblem sizes;
  Input input;
  Tensor x;
  Tensor scale;
  Tensor bias;

  Problem(const Type& t, GroupNormProblem problem, Input kind, std::int64_t offset = 0)
      : type(&t),
        sizes(problem),
        input(kind),
        x(t, problem.batch * problem.channels * problem.spatial, offset),
        scale(t, problem.channels, offset),
        bias(t, problem.channels, offset) {
    sizes.dtype = t.dtype;
    fill();
  }

  std::size_t index(std::int64_t n, std::int64_t c, std::int64_t s) const {
    return static_cast<std::size_t>(sizes.layout == Layout::kChannelsLast
                                        ? (n * sizes.spatial + s) * sizes.channels + c
                                        : (n * sizes.channels + c) * sizes.spatial + s);
  }

  std::string text() const {
    return std::string(type->name) + " N " + std::to_string(sizes.batch) + " C " + std::to_string(sizes.channels) +
           " S " + std::to_string(sizes.spatial) + " G " + std::to_string(sizes.num_groups) +
           (sizes.layout == Layout::kChannelsLast ? " channels last" : "") + " activation " +
           std::to_string(static_cast<int>(sizes.activation)) + ", " + kInputNames[static_cast<int>(input)];
  }

 private:
  // Where the kernels look for a first guess at the mean, when the sample is one group of one chunk.
  bool sampled(std::int64_t c, std::int64_t s) const {
    if (sizes.layout == Layout::kChannelsLast) {
      const std::int64_t rows = 4 + 16 * sizes.num_groups / sizes.channels;
      for (std::int64_t i = 0; i < rows; ++i) {
        if (s == i * sizes.spatial / rows) return true;
      }
      return false;
    }
    const std::int64_t at = c * sizes.spatial + s;
    for (std::int64_t third = 0; third <= 3; ++third) {
      const std::int64_t begin = (sizes.channels * sizes.spatial - 16) * third / 3;
      if (at >= begin - 2 && at < begin + 24) return true;
    }
    return false;
  }

  void fill() {
    std::mt19937_64 random(12345);
    std::normal_distribution<double> normal;
    const double epsilon_root = std::sqrt(sizes.epsilon);
    for (std::int64_t n = 0; n < sizes.batch; ++n) {
      for (std::int64_t c = 0; c < sizes.channels; ++c) {
        for (std::int64_t s = 0; s < sizes.spatial; ++s) {
          const double z = normal(random);
          double value = 0.0;
          switch (input) {
            case Input::kOrdinary:
            case Input::kWideResult:
              value = z + 0.1 * static_cast<double>(c % 7);
              break;
            case Input::kLowVariance:
              value = 0.5 * epsilon_root * z;
              break;
            case Input::kLargeMean:  // as far as the type still tells neighbours apart
              value = std::min(1e4, std::ldexp(1.0, type->digits - 5)) + z;
              break;
            case Input::kNearLargest:
              value = (z < 0 ? -1 : 1) * std::min(60000.0, type->largest);
              break;
            case Input::kSubnormal:
              value = z * 20 * type->smallest;
              break;
            case Input::kConstant:
              value = 0.1 + static_cast<double>(n);
              break;
            case Input::kMisleading:
              value = z + (sampled(c, s) ? 1000.0 : 0.0);
              break;
          }
          x.set(index(n, c, s), value);
        }
        if (n == 0) {
          const double size = input == Input::kWideResult ? 300.0 : 1.0;  // SiLU's exponential leaves its range
          scale.set(static_cast<std::size_t>(c), size * (1.0 + 0.5 * std::sin(static_cast<double>(c))));
          bias.set(static_cast<std::size_t>(c), 0.5 * std::cos(static_cast<double>(c)));
        }
      }
    }
  }
};

inline long double activated(const GroupNormProblem& p, long double v) {
  switch (p.activation) {
    case Activation::kRelu:
      return v < 0 ? 0.0L : v;
    case Activation::kSilu:
      return v / (1.0L + std::exp(-v));
    case Activation::kHardSwish:
      return v * std::fmax(0.0L, std::fmin(1.0L, v / 6.0L + 0.5L));
    case Activation::kLeakyRelu:
      return v < 0 ? static_cast<long double>(p.alpha) * v : v;
    case Activation::kNone:
      break;
  }
  return v;
}

struct Reference {
  long double value;
  long double size;  // |scale * x_hat| + |scale| + |bias|: what rounding errors are relative to
};

// Element i of the result, at the index of x.
inline std::vector<Reference> reference(const Problem& problem) {
  const GroupNormProblem& p = problem.sizes;
  std::vector<Reference> out(problem.x.count());
  const std::int64_t depth = p.channels / p.num_groups;
  const auto count = static_cast<long double>(depth * p.spatial);
  for (std::int64_t n = 0; n < p.batch; ++n) {
    for (std::int64_t g = 0; g < p.num_groups; ++g) {
      const auto for_group = [&](const auto& body) {
        for (std::int64_t c = g * depth; c < (g + 1) * depth; ++c) {
          for (std::int64_t s = 0; s < p.spatial; ++s) body(static_cast<std::size_t>(c), problem.index(n, c, s));
        }
      };
      // From the first element on, so that a large mean costs this sum no digits.
      long double sum = 0;
      const auto first =
          depth * p.spatial == 0 ? 0.0L : static_cast<long double>(problem.x.get(problem.index(n, g * depth, 0)));
      for_group([&](std::size_t, std::size_t i) { sum += static_cast<long double>(problem.x.get(i)) - first; });
      const long double mean = first + sum / count;
      long double squares = 0;
      for_group([&](std::size_t, std::size_t i) {
        const long double d = static_cast<long double>(problem.x.get(i)) - mean;
        squares += d * d;
      });
      const long double rstd = 1.0L / std::sqrt(squares / count + static_cast<long double>(p.epsilon));
      for_group([&](std::size_t c, std::size_t i) {
        const auto gamma = static_cast<long double>(problem.scale.get(c));
        const auto beta = static_cast<long double>(problem.bias.get(c));
        const long double product = gamma * (static_cast<long double>(problem.x.get(i)) - mean) * rstd;
        out[i] = {activated(p, product + beta), std::abs(product) + std::abs(gamma) + std::abs(beta)};
      });
    }
  }
  return out;
}

}  // namespace gn::test
