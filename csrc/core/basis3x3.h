// The product with the basis of a 3x3 kernel whose high band is everything but DC, without a matrix.
//
// The bins of a 3x3 DFT other than DC are four conjugate pairs, and the phase of each depends on one residue mod 3
// only: of column, row, their sum or their difference. So B z is a sum of four functions of three values each.
#pragma once

#include "core/macros.h"

TIP_BEGIN_NAMESPACE

constexpr float kGain3x3 = 0.47140452f;    // sqrt(2/9), of every column of B; left to the caller, with the amplitude
constexpr float kDcGain3x3 = 0.33333333f;  // of the column of DC

// cosine * cos(2 pi t / 3) + sine * sin(2 pi t / 3) for t = 0, 1, 2
template <class F>
TIP_HD void three_values(F cosine, F sine, F values[3]) {
  const F half = cosine * -0.5f;
  values[0] = cosine;
  values[1] = half + sine * 0.8660254f;
  values[2] = half - sine * 0.8660254f;
}

// y [9] from the coefficients z [8] of the pairs (0, 1), (1, 0), (1, 1) and (1, 2) in the order of the basis, all
// divided by kGain3x3.
template <class F>
TIP_HD void synthesize_3x3(const F* z, F* y) {
  F column[3], row[3], sum[3], difference[3];
  three_values(z[0], z[1], column);
  three_values(z[2], z[3], row);
  three_values(z[4], z[5], sum);
  three_values(z[6], z[7], difference);  // bin (1, 2) is (1, -1)
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) y[3 * i + j] = (column[j] + row[i]) + (sum[(i + j) % 3] + difference[(i - j + 3) % 3]);
  }
}

TIP_END_NAMESPACE
