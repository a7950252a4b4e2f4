// The product with the basis of a 3x3 kernel whose high band is everything but DC, without a matrix.
#pragma once

#include "core/macros.h"

TIP_BEGIN_NAMESPACE

constexpr int kPair3x3 = 18;  // values of two kernels

// sqrt(2/9), of every column but DC's, which is left to the caller's amplitude; and 1/3, of the column of DC.
constexpr double kExactGain3x3 = 0.47140452079103168, kExactDcGain3x3 = 1.0 / 3;
constexpr float kGain3x3 = static_cast<float>(kExactGain3x3), kDcGain3x3 = static_cast<float>(kExactDcGain3x3);

// What is not added to a kernel.
struct NoConstant3x3 {
  template <class F>
  TIP_HD F operator()(F sum) const {
    return sum;
  }
};

// What all taps of a kernel get besides.
template <class F>
struct Constant3x3 {
  F value;
  TIP_HD F operator()(F sum) const { return sum + value; }
};

// The kernel y [9] of 8 coefficients z in units of kGain3x3, in arithmetic Real, and a constant on every tap.
//
// With the columns (cos, sin) of the bins (0,1), (1,0), (1,1), (1,2) in this order (docs/design.md, section 2) and
// cos(a + b) and sin(a + b) expanded, y(s, t) = p(t) + cos(2 pi s/3) q(t) + sin(2 pi s/3) r(t): 27 operations
// where the product with the basis takes 72.
template <class Real = float, class F, class Constant = NoConstant3x3>
TIP_HD void synthesize_3x3(const F* z, F* y, Constant plus = {}) {
  constexpr Real sine = static_cast<Real>(0.86602540378443865);  // of 2 pi / 3; the cosine is -1/2
  const F q_cos = z[4] + z[6], q_sin = z[5] - z[7];
  const F r_cos = z[5] + z[7], r_sin = z[6] - z[4];
  const F p_half = plus(z[0] * -0.5f), q_half = z[2] - q_cos * 0.5f, r_half = z[3] - r_cos * 0.5f;
  const F p[3] = {plus(z[0]), p_half + z[1] * sine, p_half - z[1] * sine};
  const F q[3] = {z[2] + q_cos, q_half + q_sin * sine, q_half - q_sin * sine};
  const F r[3] = {z[3] + r_cos, r_half + r_sin * sine, r_half - r_sin * sine};
  TIP_UNROLL
  for (int t = 0; t < 3; ++t) {
    const F half = p[t] - q[t] * 0.5f;
    y[t] = p[t] + q[t];
    y[3 + t] = half + r[t] * sine;
    y[6 + t] = half - r[t] * sine;
  }
}

TIP_END_NAMESPACE
