// What is added to a 3x3 kernel that has white noise, or whose high band is all but DC. One function for all callers:
// compilers may fuse products and sums in one way here and in another there, and what a kernel gets must not depend on
// where in a run it lies.
#pragma once

#include "cpu/simd.h"

#include "core/basis3x3.h"
#include "cpu/amounts.h"

TIP_BEGIN_NAMESPACE

// y [9] for one slice of all lanes, from normals z: 8 for Noise::band, else 9. A kernel whose high band shrinks is
// `keep` times itself, and gets what its mean lacks then, `mean`; for others it is 0.
template <class V>
__attribute__((noinline)) void kernel_noise(Noise noise, const Amounts<NumberOf<V>>& amounts, const F* z, int slice,
                                            const V& mean, V* y) {
  if (noise == Noise::white) {
    for (int t = 0; t < 9; ++t) y[t] = slice_of<V>(z + t, slice);
    for (int t = 0; amounts.varied && t < 9; ++t) y[t] *= amounts.high;
    return;
  }
  if (kSlices<V> == 1 && noise == Noise::band) {
    if constexpr (kSlices<V> == 1) synthesize_3x3(z, y);  // they are multiplied already, and not copied
  } else {
    V high[8];
    for (int j = 0; j < 8; ++j) high[j] = slice_of<V>(z + j, slice) * amounts.high;
    synthesize_3x3<NumberOf<V>>(high, y);
  }
  if (noise == Noise::band && !amounts.replaces) return;
  // The product and the mean are one multiply-add, even in a copy of this function for kernels without a mean.
  const V constant = noise == Noise::full ? slice_of<V>(z + 8, slice) * amounts.low + mean : mean;
  for (int t = 0; t < 9; ++t) y[t] += constant;
}

// The same where every coefficient has its own amount; Noise::colored as well.
template <class V>
__attribute__((noinline)) void shaped_noise(Noise noise, const Amounts<NumberOf<V>>& amounts, const F* z, int slice,
                                            const V& mean, V* y) {
  const auto coefficient = [&](int c) { return slice_of<V>(z + amounts.column[c], slice) * amounts.each[c]; };
  V high[8];
#pragma GCC unroll 8
  for (int c = 0; c < 8; ++c) high[c] = coefficient(c);
  if (noise == Noise::band && !amounts.replaces) return synthesize_3x3<NumberOf<V>>(high, y);
  synthesize_3x3<NumberOf<V>>(high, y, Constant3x3<V>{noise == Noise::band ? mean : coefficient(8) + mean});
}

template <class V>
TIP_HD void noise_3x3(Noise noise, const Amounts<NumberOf<V>>& amounts, const F* z, int slice, const V& mean, V* y) {
  amounts.each ? shaped_noise<V>(noise, amounts, z, slice, mean, y)
               : kernel_noise<V>(noise, amounts, z, slice, mean, y);
}

TIP_END_NAMESPACE
