// What a lane type must offer besides operators, for scalars: on GPUs one thread is one lane.
//
// Vector types overload these functions in a header included before core/philox.h, core/normals.h and core/grid.h,
// whose templates then find them.
#pragma once

#include <cmath>
#include <cstring>

#include "core/macros.h"

TIP_BEGIN_NAMESPACE

TIP_HD float to_float(uint32_t x) { return static_cast<float>(x); }
TIP_HD float to_float(int32_t x) { return static_cast<float>(x); }
TIP_HD int32_t as_int(uint32_t x) { return static_cast<int32_t>(x); }
TIP_HD uint32_t as_uint(int32_t x) { return static_cast<uint32_t>(x); }
TIP_HD float choose(bool condition, float yes, float no) { return condition ? yes : no; }
TIP_HD float magnitude(float x) { return fabsf(x); }
TIP_HD float with_sign(float magnitude, float of) { return copysignf(magnitude, of); }
TIP_HD float square_root(float x) { return sqrtf(x); }
TIP_HD uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
TIP_HD float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Double has no lanes: what rounds float64 gradients is called with scalars.
TIP_HD double choose(bool condition, double yes, double no) { return condition ? yes : no; }
TIP_HD double magnitude(double x) { return fabs(x); }
TIP_HD double with_sign(double magnitude, double of) { return copysign(magnitude, of); }

// Philox multiplies 32 by 32 to 64 bits. Vectors of 32-bit lanes keep its state in another form for that.
TIP_HD uint32_t to_factors(uint32_t x) { return x; }
TIP_HD uint32_t from_factors(uint32_t x) { return x; }
TIP_HD void multiply_wide(uint32_t a, uint32_t b, uint32_t& high, uint32_t& low) {
  const uint64_t product = static_cast<uint64_t>(a) * b;
  high = static_cast<uint32_t>(product >> 32);
  low = static_cast<uint32_t>(product);
}

TIP_END_NAMESPACE
