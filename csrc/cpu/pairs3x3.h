// Noise of 3x3 kernels, two to a lane, from registers to gradients without passing through memory.
//
// A layout says where the 2 * kLanes successive kernels of a vector lie. Both take y [kPair3x3], value c of every lane.
#pragma once

#include "cpu/apply.h"

#include "core/basis3x3.h"

TIP_BEGIN_NAMESPACE

constexpr int kBody = 16;  // of the values of a lane, so many are transposed; the other two are its tail

// Where vector v of the values in memory order, lane after lane, gets its float i from.
constexpr int lane_of(int v, int i) { return (v * kLanes + i) / kPair3x3; }
constexpr int value_of(int v, int i) { return (v * kLanes + i) % kPair3x3; }
constexpr bool in_tail(int v, int i) { return value_of(v, i) >= kBody; }
constexpr int row_of(int v, int i) { return value_of(v, i) / kLanes * kLanes + lane_of(v, i); }

// Bodies in memory order are pieces of two rows at most; tails, zipped, are where they belong in their vector already.
template <int v, int... i>
TIP_HD F in_memory_order(const F* rows, const F* tails, std::integer_sequence<int, i...>) {
  constexpr int first = row_of(v, in_tail(v, 0) ? 2 : 0);
  constexpr int last = row_of(v, in_tail(v, kLanes - 1) ? kLanes - 3 : kLanes - 1);
  F x = shuffle<(in_tail(v, i) ? i : value_of(v, i) % kLanes + (row_of(v, i) == last ? kLanes : 0))...>(rows[first],
                                                                                                      rows[last]);
  if constexpr ((in_tail(v, i) || ...)) {
    constexpr int lane = (v * kLanes + kLanes - 1 - kBody) / kPair3x3;
    x = shuffle<(in_tail(v, i) ? kLanes + i : i)...>(x, tails[2 * lane / kLanes]);
  }
  return x;
}

// Kernel after kernel.
template <class T>
struct Contiguous {
  using Element = T;
  static constexpr int64_t kStep = kPair3x3 * kLanes;  // elements from a vector's first kernel to the next one's

  // Called, because what is inlined into several loops takes the compiler several times as long.
  template <class Round>
  __attribute__((noinline)) void add(T* x, float scale, F* y, Round round) const {
    add(x, scale, y, round, std::make_integer_sequence<int, kPair3x3>());
  }
  TIP_HD void fetch(const T* x) const { prefetch<kPair3x3>(x); }

 private:
  template <class Round, int... v>
  TIP_HD void add(T* x, float scale, F* y, Round round, std::integer_sequence<int, v...>) const {
    F tails[2];
    zip(y[kBody], y[kBody + 1], tails);
#pragma GCC unroll 4
    for (int block = 0; block < kBody; block += kLanes) transpose(y + block);
    (add_vector(x + v * kLanes, scale, in_memory_order<v>(y, tails, kEachLane), round), ...);
  }
};

// Channels last: each tap of all kernels, tap after tap.
template <class T>
struct ChannelsLast {
  using Element = T;
  static constexpr int64_t kStep = 2 * kLanes;
  const int64_t* tap_offsets;

  template <class Round>
  __attribute__((noinline)) void add(T* x, float scale, F* y, Round round) const {
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) {
      F kernels[2];
      zip(y[t], y[9 + t], kernels);
      for (int half = 0; half < 2; ++half) add_vector(x + tap_offsets[t] + half * kLanes, scale, kernels[half], round);
    }
  }
  TIP_HD void fetch(const T* x) const {
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) prefetch<2>(x + tap_offsets[t]);
  }
};

TIP_END_NAMESPACE
