// Noise of 3x3 kernels, two to a lane, from registers to gradients without passing through memory.
//
// A layout says where the successive kernels of a vector lie: kStep elements, in as many slices as it takes vectors V.
// y [kPair3x3] has value c of every lane of a slice.
#pragma once

#include "cpu/apply.h"
#include "cpu/shuffle.h"

#include "core/basis3x3.h"

TIP_BEGIN_NAMESPACE

constexpr int kBody = 16;  // of the values of a lane, so many are transposed; the other two are its tail

// Where vector v of the values in memory order, lane after lane, gets its number i from.
template <class V>
struct MemoryOrder {
  static constexpr int lane(int v, int i) { return (v * kLanesOf<V> + i) / kPair3x3; }
  static constexpr int value(int v, int i) { return (v * kLanesOf<V> + i) % kPair3x3; }
  static constexpr bool in_tail(int v, int i) { return value(v, i) >= kBody; }
  static constexpr int row(int v, int i) { return value(v, i) / kLanesOf<V> * kLanesOf<V> + lane(v, i); }
};

// Bodies in memory order are pieces of two rows at most; tails, zipped, are where they belong in their vector already.
template <int v, class V, int... i>
TIP_HD V in_memory_order(const V* rows, const V* tails, std::integer_sequence<int, i...>) {
  using Order = MemoryOrder<V>;
  constexpr int kWidth = kLanesOf<V>, kEnd = kWidth - 1;
  constexpr int lane = (v * kWidth + kEnd - kBody) / kPair3x3;
  if constexpr ((Order::in_tail(v, i) && ...)) {
    return tails[2 * lane / kWidth];
  } else {
    constexpr int first = Order::row(v, Order::in_tail(v, 0) ? 2 : 0);
    constexpr int last = Order::row(v, Order::in_tail(v, kEnd) ? kEnd - 2 : kEnd);
    V x =
        shuffle<(Order::in_tail(v, i) ? i : Order::value(v, i) % kWidth + (Order::row(v, i) == last ? kWidth : 0))...>(
            rows[first], rows[last]);
    if constexpr ((Order::in_tail(v, i) || ...))
      x = shuffle<(Order::in_tail(v, i) ? kWidth + i : i)...>(x, tails[2 * lane / kWidth]);
    return x;
  }
}

// The tail of a lane into its place among the zipped ones, from where it lies in memory.
template <int lane, class V, class T, int... i>
TIP_HD void read_tail(const T* x, V* tails, std::integer_sequence<int, i...>) {
  constexpr int kWidth = kLanesOf<V>, place = 2 * lane % kWidth;
  V& zipped = tails[2 * lane / kWidth];
  zipped = shuffle<(i / 2 == place / 2 ? kWidth + i : i)...>(zipped, widen(x + lane * kPair3x3 + kBody - place));
}

// The sum of values times `factor`, added to `sum` from the first value on.
template <class V>
TIP_HD V weighted_sum(const V* x, int count, NumberOf<V> factor, V sum = V{}) {
#pragma GCC unroll 9
  for (int t = 0; t < count; ++t) sum += x[t] * factor;
  return sum;
}

// Kernel after kernel.
template <class T>
struct Contiguous {
  using Element = T;
  using V = VectorOf<T>;
  using A = NumberOf<V>;
  static constexpr int64_t kStep = kPair3x3 * kLanes;

  // Called, because what is inlined into several loops takes the compiler several times as long.
  template <class Round>
  __attribute__((noinline)) void add(T* x, A scale, V* y, Round round) const {
    add(x, scale, y, round, std::make_integer_sequence<int, kPair3x3>());
  }

  // Of the two kernels of every lane the sum, times `factor`.
  __attribute__((noinline)) void sum(const T* x, A factor, V* sums) const {
    V rows[kBody];
#pragma GCC unroll 16
    for (int block = 0; block < kBody; block += kLanesOf<V>) {
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanesOf<V>; ++lane) rows[block + lane] = widen(x + lane * kPair3x3 + block);
      transpose(rows + block);
    }
    V tails[2] = {}, last[2];
    read_tails(x, tails, kEachLane<V>);
    unzip(tails[0], tails[1], last);
    sums[0] = weighted_sum(rows, 9, factor);
    sums[1] = weighted_sum(last, 2, factor, weighted_sum(rows + 9, kBody - 9, factor));
  }

  TIP_HD void fetch(const T* x) const { prefetch<kPair3x3>(x); }

 private:
  template <class Round, int... v>
  TIP_HD void add(T* x, A scale, V* y, Round round, std::integer_sequence<int, v...>) const {
    V tails[2];
    zip(y[kBody], y[kBody + 1], tails);
#pragma GCC unroll 8
    for (int block = 0; block < kBody; block += kLanesOf<V>) transpose(y + block);
    (add_vector(x + v * kLanesOf<V>, scale, in_memory_order<v>(y, tails, kEachLane<V>), round), ...);
  }

  template <int... lane>
  TIP_HD void read_tails(const T* x, V* tails, std::integer_sequence<int, lane...>) const {
    (read_tail<lane>(x, tails, kEachLane<V>), ...);
  }
};

// Channels last: each tap of all kernels, tap after tap.
template <class T>
struct ChannelsLast {
  using Element = T;
  using V = VectorOf<T>;
  using A = NumberOf<V>;
  static constexpr int64_t kStep = 2 * kLanes;
  const int64_t* tap_offsets;

  template <class Round>
  __attribute__((noinline)) void add(T* x, A scale, V* y, Round round) const {
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) {
      V kernels[2];
      zip(y[t], y[9 + t], kernels);
      for (int half = 0; half < 2; ++half)
        add_vector(x + tap_offsets[t] + half * kLanesOf<V>, scale, kernels[half], round);
    }
  }

  __attribute__((noinline)) void sum(const T* x, A factor, V* sums) const {
    V halves[2];
    for (int half = 0; half < 2; ++half) {
      V taps[9];
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) taps[t] = widen(x + tap_offsets[t] + half * kLanesOf<V>);
      halves[half] = weighted_sum(taps, 9, factor);
    }
    unzip(halves[0], halves[1], sums);
  }

  TIP_HD void fetch(const T* x) const {
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) prefetch<2>(x + tap_offsets[t]);
  }
};

TIP_END_NAMESPACE
