// The noise of a 3x3 kernel, from its normals. The same function for all who need it: compilers may fuse products and
// sums in one way here and in another there, and what a kernel gets must not depend on where in a run it lies.
#pragma once

#include "cpu/simd.h"

#include "core/basis3x3.h"
#include "cpu/amounts.h"

TIP_BEGIN_NAMESPACE

// y [9] of the kernels of all lanes, from normals z: 8 for Noise::band, else 9. The high band is all but DC, if any.
__attribute__((noinline)) inline void kernel_noise(Noise noise, const Amounts& amounts, const F* z, F* y) {
  if (noise == Noise::white) {
    for (int t = 0; t < 9; ++t) y[t] = z[t];
  } else if (noise == Noise::band) {
    synthesize_3x3(z, y);
  } else {
    F high[8];
    for (int j = 0; j < 8; ++j) high[j] = z[j] * amounts.high;
    const F constant = z[8] * amounts.low;
    synthesize_3x3(high, y);
    for (int t = 0; t < 9; ++t) y[t] += constant;
  }
}

TIP_END_NAMESPACE
