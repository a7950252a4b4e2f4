// One group of 16 words per lane from any generator. A generator is named by its rounds, as in the op.
#pragma once

#include "core/chacha.h"
#include "core/philox.h"

TIP_BEGIN_NAMESPACE

constexpr int kPhiloxRounds = 10;

// `group` holds bits 0..31 of each lane's group in `low` and, in `high`, bits 32..39 below the tensor's 24 bits.
template <int kRounds, class U>
TIP_HD void generate(const Stream& stream, Counter<U> group, U out[kGroup]) {
  if constexpr (kRounds == kPhiloxRounds) {
    const U tensor = group.high & 0xFFFFFF00u;
    const U first_high = ((group.high & 0xFFu) << 2 | group.low >> 30) | tensor;
    for (uint32_t i = 0; i < 4; ++i) philox(stream, Counter<U>{(group.low << 2) + i, first_high}, out + 4 * i);
  } else {
    chacha<kRounds>(stream, group, out);
  }
}

// The same for a generator known at run time.
template <class U>
TIP_HD void generate(int rounds, const Stream& stream, Counter<U> group, U out[kGroup]) {
  switch (rounds) {
    case 8: return generate<8>(stream, group, out);
    case 12: return generate<12>(stream, group, out);
    case 20: return generate<20>(stream, group, out);
    case kPhiloxRounds: return generate<kPhiloxRounds>(stream, group, out);
  }
  __builtin_trap();  // the op has refused any other number
}

TIP_END_NAMESPACE
