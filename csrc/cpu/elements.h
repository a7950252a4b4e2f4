// Noise of elements that follow one another, the 16 of a group to a lane, from registers to gradients.
#pragma once

#include "cpu/apply.h"

#include "core/address.h"

TIP_BEGIN_NAMESPACE

template <class T>
struct Elements {
  using Element = T;
  static constexpr int64_t kStep = kGroup * kLanes;  // elements from a vector's first to the next one's

  // y [kGroup], value c of every lane.
  template <class Round>
  __attribute__((noinline)) void add(T* x, float scale, F* y, Round round) const {
#pragma GCC unroll 4
    for (int block = 0; block < kGroup; block += kLanes) transpose(y + block);
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane)
      for (int block = 0; block < kGroup; block += kLanes)
        add_vector(x + lane * kGroup + block, scale, y[block + lane], round);
  }
  TIP_HD void fetch(const T* x) const { prefetch<kGroup>(x); }
};

TIP_END_NAMESPACE
