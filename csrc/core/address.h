// Where the random words of a unit lie. docs/design.md, section 3, is the contract.
#pragma once

#include "core/macros.h"

namespace tip {

constexpr int kGroup = 16;  // words generated together: one ChaCha block, four Philox blocks

// What the words of all tensors depend on; word 16 * group + i of a tensor then follows from (tensor, group).
struct Stream {
  uint32_t key[8];
  uint64_t step;
};

// How the words of units lie in groups: several units share a group, or a unit has several groups of its own.
// A lane is what a vector lane or a GPU's thread works on: the smallest number of whole units in whole groups.
struct Packing {
  int64_t units;   // of a lane
  int64_t groups;  // of a lane
};

}  // namespace tip

TIP_BEGIN_NAMESPACE

// Words that a unit uses. `high_dim` is 0 without a high band.
TIP_HD int64_t used_words(int64_t taps, int64_t high_dim, bool floor) {
  return floor || high_dim == 0 ? taps : high_dim;
}

// Words from one unit's first word to the next one's, for units that use `used` of them.
TIP_HD int64_t pitch(int64_t used) {
  if (used > kGroup) return (used + kGroup - 1) / kGroup * kGroup;
  int64_t p = 1;
  while (p < used) p *= 2;
  return p;
}

TIP_HD Packing packing_of(int64_t used) {
  const int64_t words = pitch(used);
  return words <= kGroup ? Packing{kGroup / words, 1} : Packing{1, words / kGroup};
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
