// Box-Muller (1958) on full 32-bit words, in float32 and without fast-math. docs/design.md, section 3.
//
// U is the uint32 lane type and F the float one, see core/lanes.h.
// Polynomial coefficients are minimax fits of the relative error; tests/test_normals.py bounds the whole.
#pragma once

#include "core/lanes.h"

TIP_BEGIN_NAMESPACE

// -2 ln(u) for u in [2^-33, 1].
template <class U, class F>
TIP_HD F minus_two_log(F u) {
  // u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), so that f is exact and no digits cancel near u = 1.
  const U bits = float_bits(u);
  const auto e = as_int(bits - 0x3F3504F3u) >> 23;
  const F f = bits_float(bits - (as_uint(e) << 23)) - 1.0f;
  // ln(1 + f) = f + f^2 p(f)
  F p = f * 0.08734841f + -0.14307521f;
  p = p * f + 0.14917974f;
  p = p * f + -0.16570508f;
  p = p * f + 0.19962072f;
  p = p * f + -0.25001755f;
  p = p * f + 0.33333951f;
  p = p * f + -0.49999991f;
  const F exponent = to_float(e);
  // ln 2 in two parts: the first has 12 trailing zero bits, so exponent * first is exact.
  const F small = f * f * p + exponent * -2.1219444e-4f;
  return (exponent * 0.693359375f + (f + small)) * -2.0f;
}

// Cosine and sine of 2 pi turns / 2^32.
template <class U, class F>
TIP_HD void cos_sin_of_turns(U turns, F& cosine, F& sine) {
  const U quadrant = (turns + 0x20000000u) >> 30;
  const F x = to_float(as_int(turns - (quadrant << 30))) * 1.4629180792671596e-9f;  // in [-pi/4, pi/4]
  const F x2 = x * x;
  const F s = ((x2 * -0.0001951730f + 0.008332178f) * x2 + -0.16666655f) * x2 * x + x;
  const F c = ((x2 * 2.4433156e-5f + -0.0013887316f) * x2 + 0.041666646f) * (x2 * x2) + (x2 * -0.5f + 1.0f);
  const auto swapped = (quadrant & 1u) != 0u;
  const U cosine_sign = (quadrant + 1u) << 30 & 0x80000000u;  // negative in quadrants 1 and 2
  const U sine_sign = quadrant << 30 & 0x80000000u;           // negative in quadrants 2 and 3
  cosine = bits_float(float_bits(choose(swapped, s, c)) ^ cosine_sign);
  sine = bits_float(float_bits(choose(swapped, c, s)) ^ sine_sign);
}

// Two normals, times `scale`, from two consecutive words.
template <class U, class F, class Scale>
TIP_HD void box_muller(U first, U second, Scale scale, F& even, F& odd) {
  const F u = to_float(first) * 0x1p-32f + 0x1p-33f;
  const F radius = square_root(minus_two_log<U, F>(u)) * scale;
  F cosine, sine;
  cos_sin_of_turns<U, F>(second, cosine, sine);
  even = radius * cosine;
  odd = radius * sine;
}

TIP_END_NAMESPACE
