// Division by a number that is known before the launch, as a multiplication and a shift: an integer division per vector
// would cost more than the rest of the kernel's arithmetic.
#pragma once

#include <cstdint>

namespace gn::cuda {

// quotient = (high half of (dividend * multiplier) + dividend) >> shift, for dividends below 2^31 and 1 <= divisor <=
// 2^31.
struct FastDivisor {
  std::uint32_t divisor = 1;
  std::uint32_t multiplier = 1;
  std::uint32_t shift = 0;
};

inline FastDivisor make_fast_divisor(std::uint32_t divisor) {
  std::uint32_t shift = 0;
  while ((std::uint64_t{1} << shift) < divisor) ++shift;
  const std::uint64_t excess = (std::uint64_t{1} << shift) - divisor;
  const std::uint64_t multiplier = (excess << 32) / divisor + 1;
  return {divisor, static_cast<std::uint32_t>(multiplier), shift};
}

}  // namespace gn::cuda
