// Vector accesses: kVector elements that one thread moves at once, either 16 bytes or one element.
#pragma once

#include <type_traits>

#include "element.cuh"

namespace gn::cuda {

template <typename T>
constexpr int kWide = 16 / static_cast<int>(sizeof(T));

// 16 bytes stay packed in four registers until they are used; as eight elements they would take eight.
template <typename T, int kVector>
struct Pack {
  static_assert(kVector == kWide<T>, "16 bytes or one element");
  Bits128 bits;
};
template <typename T>
struct Pack<T, 1> {
  T bits;
};

template <typename T>
struct alignas(16) Elements {
  T value[kWide<T>];
};

// Every element as a float, in place of the half types' arithmetic.
template <int kVector>
struct Floats {
  float value[kVector];
};

template <typename T, int kVector>
GN_DEVICE Floats<kVector> unpack(const Pack<T, kVector>& pack) {
  if constexpr (kVector == 1) {
    return {{to_float(pack.bits)}};
  } else {
    Floats<kVector> floats;
    const auto elements = bit_cast<Elements<T>>(pack.bits);
#pragma unroll
    for (int e = 0; e < kVector; ++e) floats.value[e] = to_float(elements.value[e]);
    return floats;
  }
}

template <typename T, int kVector>
GN_DEVICE Pack<T, kVector> pack_floats(const Floats<kVector>& floats) {
  if constexpr (kVector == 1) {
    return {from_float<T>(floats.value[0])};
  } else {
    Elements<T> elements;
#pragma unroll
    for (int e = 0; e < kVector; ++e) elements.value[e] = from_float<T>(floats.value[e]);
    return {bit_cast<Bits128>(elements)};
  }
}

enum class Reuse { kOnce, kAgain };

template <typename T, int kVector, Reuse kReuse>
GN_DEVICE Pack<T, kVector> load_pack(const T* address) {
  if constexpr (kVector == 1) {
    return {*address};
  } else {
    const auto* wide = reinterpret_cast<const Bits128*>(address);
    return {kReuse == Reuse::kOnce ? load_once(wide) : load_again(wide)};
  }
}

// Between two passes over values in registers.
template <typename T, int kVector>
GN_DEVICE void forget(Pack<T, kVector>& pack) {
  if constexpr (kVector > 1) forget(pack.bits);
}

template <typename T, int kVector>
GN_DEVICE void store_pack(T* address, const Pack<T, kVector>& pack) {
  if constexpr (kVector == 1) {
    *address = pack.bits;
  } else {
    store_128(reinterpret_cast<Bits128*>(address), pack.bits);
  }
}

}  // namespace gn::cuda
