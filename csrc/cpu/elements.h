// Noise of elements that follow one another, the 16 of a group to a lane, from registers to gradients.
#pragma once

#include "cpu/apply.h"
#include "cpu/shuffle.h"

#include "core/address.h"

TIP_BEGIN_NAMESPACE

template <class T>
struct Elements {
  using Element = T;
  using V = VectorOf<T>;
  static constexpr int64_t kStep = kGroup * kLanes;

  // y [kGroup] has value c of every lane of a slice.
  template <class Round>
  __attribute__((noinline)) void add(T* x, NumberOf<V> scale, V* y, Round round) const {
#pragma GCC unroll 8
    for (int block = 0; block < kGroup; block += kLanesOf<V>) transpose(y + block);
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanesOf<V>; ++lane)
#pragma GCC unroll 8
      for (int block = 0; block < kGroup; block += kLanesOf<V>)
        add_vector(x + lane * kGroup + block, scale, y[block + lane], round);
  }
  TIP_HD void fetch(const T* x) const { prefetch<kGroup>(x); }
};

TIP_END_NAMESPACE
