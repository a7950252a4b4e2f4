// Where the random words of a kernel lie. docs/design.md, section 3, is the contract.
#pragma once

#include "core/macros.h"

TIP_BEGIN_NAMESPACE

constexpr int kGroup = 16;  // words generated together: one ChaCha block, four Philox blocks

// A word's place is known up to its group by (tensor, group): word 16 * group + i of the tensor's stream.
struct Stream {
  uint32_t key[8];
  uint64_t step;
};

// Words from one kernel's first word to the next one's, for a kernel that uses `used` of them.
TIP_HD int64_t pitch(int64_t used) {
  if (used > kGroup) return (used + kGroup - 1) / kGroup * kGroup;
  int64_t p = 1;
  while (p < used) p *= 2;
  return p;
}

// Low and high word of the counter tensor * 2^40 + block.
template <class U>
struct Counter {
  U low, high;
};

TIP_HD Counter<uint32_t> counter(uint32_t tensor, uint64_t block) {
  return {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32) | tensor << 8};
}

TIP_END_NAMESPACE
