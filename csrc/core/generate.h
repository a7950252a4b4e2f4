// One group of 16 words per lane from any generator. Numbers name generators, as in the ops: those of ChaCha and Philox
// are their rounds; a new one takes any other.
#pragma once

#include <type_traits>

#include "core/chacha.h"
#include "core/philox.h"

TIP_BEGIN_NAMESPACE

constexpr int kPhilox = 10;

TIP_HD constexpr bool is_chacha(int64_t generator) { return generator == 8 || generator == 12 || generator == 20; }

// Block i of the four of Philox in a group.
template <class U>
TIP_HD Counter<U> philox_counter(Counter<U> group, uint32_t i) {
  const U tensor = group.high & 0xFFFFFF00u;
  return {(group.low << 2) + i, ((group.high & 0xFFu) << 2 | group.low >> 30) | tensor};
}

// `group` holds bits 0..31 of each lane's group in `low` and, in `high`, bits 32..39 below the tensor's 24 bits.
template <int kGenerator, class U>
TIP_HD void generate(const Stream& stream, Counter<U> group, U out[kGroup]) {
  if constexpr (kGenerator == kPhilox) {
    for (uint32_t i = 0; i < 4; ++i) philox(stream, philox_counter(group, i), out + 4 * i);
  } else {
    static_assert(is_chacha(kGenerator), "a new generator has a case of its own here");
    chacha<kGenerator>(stream, group, out);
  }
}

// Calls f with a generator that is known at run time as a std::integral_constant. Host code.
template <class F>
void with_generator(int generator, F f) {
  switch (generator) {
    case 8: return f(std::integral_constant<int, 8>());
    case 12: return f(std::integral_constant<int, 12>());
    case 20: return f(std::integral_constant<int, 20>());
    case kPhilox: return f(std::integral_constant<int, kPhilox>());
  }
  __builtin_trap();  // the op has refused any other number
}

TIP_END_NAMESPACE
