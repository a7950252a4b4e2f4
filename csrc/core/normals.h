// Box-Muller (1958) on full 32-bit words, in float32 and without fast-math. docs/design.md, section 3.
//
// U is the uint32 lane type and F the float one, see core/lanes.h.
// Polynomial coefficients are minimax fits of relative error (cosine: absolute); tests/test_normals.py bounds the sum.
#pragma once

#include "core/lanes.h"

TIP_BEGIN_NAMESPACE

// -2 ln(1 + f) for 1 + f in [sqrt(1/2), sqrt(2)).
template <class F>
TIP_HD F minus_two_log1p(F f) {
  F p = f * -0.17469682f + 0.28615043f;  // f (-2 + f p)
  p = p * f + -0.29835948f;
  p = p * f + 0.33141017f;
  p = p * f + -0.39924145f;
  p = p * f + 0.50003511f;
  p = p * f + -0.66667902f;
  p = p * f + 0.99999982f;
  return f * (p * f + -2.0f);
}

// -2 ln(u) for u in [2^-33, 1].
template <class U, class F>
TIP_HD F minus_two_log(F u) {
  // u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), so that f is exact and no digits cancel near u = 1.
  const U bits = float_bits(u);
  const auto e = as_int(bits - 0x3F3504F3u) >> 23;
  const F f = bits_float(bits - (as_uint(e) << 23)) - 1.0f;
  return to_float(e) * -1.3862944f + minus_two_log1p(f);
}

// sin(x) / x and cos(x) for |x| <= pi/2, from z = x^2.
template <class F>
TIP_HD F sine_ratio(F z) {
  F s = z * 2.6019031e-6f + -1.9807419e-4f;
  s = s * z + 0.008333026f;
  s = s * z + -0.16666657f;
  return s * z + 1.0f;
}

template <class F>
TIP_HD F cosine(F z) {
  F c = z * -2.6051495e-7f + 2.476016e-5f;
  c = c * z + -0.0013888362f;
  c = c * z + 0.041666638f;
  c = c * z + -0.5f;
  return c * z + 1.0f;
}

// radius * cos and radius * sin of the angle 2 pi turns / 2^32.
template <class U, class F>
TIP_HD void on_circle(F radius, U turns, F& even, F& odd) {
  // Half a turn changes both signs, so it goes into the radius and leaves an angle in [-pi/2, pi/2).
  const U half = (turns + 0x40000000u) & 0x80000000u;
  const F r = bits_float(float_bits(radius) ^ half);
  const F x = to_float(as_int(turns - half)) * 1.4629180792671596e-9f;
  const F z = x * x;
  even = r * cosine(z);
  odd = r * x * sine_ratio(z);
}

// Two normals, times `scale`, from two consecutive words.
template <class U, class F, class Scale>
TIP_HD void box_muller(U first, U second, Scale scale, F& even, F& odd) {
  const F u = to_float(first) * 0x1p-32f + 0x1p-33f;
  on_circle<U, F>(square_root(minus_two_log<U, F>(u)) * scale, second, even, odd);
}

TIP_END_NAMESPACE
