// Numbers that move between vectors V of floats or doubles: transposition, zips.
#pragma once

#include "cpu/simd.h"

TIP_BEGIN_NAMESPACE

// Number i of the result is number from[i] of a and b in a row.
template <int... from, class V>
TIP_HD V shuffle(V a, V b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, from...);
#else
  return __builtin_shuffle(a, b, decltype(a < b){from...});
#endif
}

template <class V>
constexpr auto kEachLane = std::make_integer_sequence<int, kLanesOf<V>>();

// One exchange of the transposition: swaps blocks of kStride lanes between rows that are kStride apart.
template <int kStride, class V, int... i>
TIP_HD void exchange(V& a, V& b, std::integer_sequence<int, i...>) {
  const V low = shuffle<(i & kStride ? i - kStride + kLanesOf<V> : i)...>(a, b);
  b = shuffle<(i & kStride ? i + kLanesOf<V> : i + kStride)...>(a, b);
  a = low;
}

template <int kStride, class V>
TIP_HD void transpose_from(V* rows) {
  if constexpr (kStride > 0) {
#pragma GCC unroll 16
    for (int r = 0; r < kLanesOf<V>; ++r)
      if (!(r & kStride)) exchange<kStride>(rows[r], rows[r + kStride], kEachLane<V>);
    transpose_from<kStride / 2>(rows);
  }
}

// Transposes as many vectors as each has lanes.
template <class V>
TIP_HD void transpose(V* rows) {
  transpose_from<kLanesOf<V> / 2>(rows);
}

// The numbers of a and b in turns: a[0], b[0], a[1], and so on.
template <class V, int... i>
TIP_HD void zip(V a, V b, V zipped[2], std::integer_sequence<int, i...>) {
  constexpr int kLanesOfV = sizeof...(i);
  zipped[0] = shuffle<(i / 2 + i % 2 * kLanesOfV)...>(a, b);
  zipped[1] = shuffle<(kLanesOfV / 2 + i / 2 + i % 2 * kLanesOfV)...>(a, b);
}
template <class V>
TIP_HD void zip(V a, V b, V zipped[2]) {
  zip(a, b, zipped, kEachLane<V>);
}

// What zip does, undone.
template <class V, int... i>
TIP_HD void unzip(V a, V b, V unzipped[2], std::integer_sequence<int, i...>) {
  unzipped[0] = shuffle<(2 * i)...>(a, b);
  unzipped[1] = shuffle<(2 * i + 1)...>(a, b);
}
template <class V>
TIP_HD void unzip(V a, V b, V unzipped[2]) {
  unzip(a, b, unzipped, kEachLane<V>);
}

TIP_END_NAMESPACE
