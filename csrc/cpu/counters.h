// Counters of the groups that the lanes of a vector draw.
#pragma once

#include "cpu/simd.h"

#include "core/address.h"

TIP_BEGIN_NAMESPACE

// Group `first` of a tensor, and every `stride`-th after it.
inline Counter<U> successive_groups(uint32_t tensor, uint64_t first, int stride = 1) {
  uint32_t low[kLanes], high[kLanes];  // as arrays, since GCC 12 for ARM warns of vectors written lane by lane
  for (int lane = 0; lane < kLanes; ++lane) {
    const Counter<uint32_t> one = counter(tensor, first + static_cast<uint64_t>(lane * stride));
    low[lane] = one.low;
    high[lane] = one.high;
  }
  Counter<U> group;
  memcpy(&group.low, low, sizeof low);
  memcpy(&group.high, high, sizeof high);
  return group;
}

// Each lane's group that comes `count` later.
TIP_HD void advance(Counter<U>& group, uint32_t count) {
  group.low += count;
  group.high -= as_uint(group.low < count);  // a carry: a true lane is -1
}

TIP_END_NAMESPACE
