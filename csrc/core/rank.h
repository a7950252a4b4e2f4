// Which of two channels comes first: the higher score, NaN before all others, the lower index among equals.
#pragma once

#include "core/lanes.h"

TIP_BEGIN_NAMESPACE

// Orders like the score, with NaN on top and both zeros equal.
TIP_HD uint32_t rank_key(float score) {
  if (score != score) return UINT32_MAX;
  const uint32_t bits = float_bits(score + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

TIP_HD bool outranks(uint32_t key, int64_t channel, uint32_t other_key, int64_t other) {
  return key > other_key || (key == other_key && channel < other);
}

TIP_END_NAMESPACE
