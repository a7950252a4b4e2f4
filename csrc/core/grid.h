// With a noise floor the released values are multiples of a step that depends on nothing but the noise, so that their
// low bits tell nothing of the gradient's. docs/design.md, section 3, is the contract.
#pragma once

#include "core/lanes.h"

TIP_BEGIN_NAMESPACE

// 2^-10 of the power of two at or below a tensor's least noise; `std` is 0 without a high band. 0 for no grid: without
// a floor, or where float32 has no normal number for the step or for 2^23 of it. From bits, which are in the order of
// their numbers, so that every backend agrees.
TIP_HD float grid_step(float floor_std, float std) {
  constexpr int32_t kFiner = 10, kGreatest = 254 - 23;
  const int32_t floor = as_int(float_bits(floor_std)), high = as_int(float_bits(std));
  if (floor <= 0) return 0.0f;
  const int32_t least = high > 0 && high < floor ? high : floor;
  const int32_t exponent = (least >> 23) - kFiner;
  return exponent < 1 || exponent > kGreatest ? 0.0f : bits_float(as_uint(exponent << 23));
}

// An amount of noise where the least of `count` amplitudes leaves the least of it.
TIP_HD float least_amount(float amount, const float* amplitudes, int64_t count) {
  float least = amplitudes[0];
  for (int64_t i = 1; i < count; ++i) least = amplitudes[i] < least ? amplitudes[i] : least;
  return amount * least;
}

// The step of a tensor that has amplitudes [2, taps]: the first `high_dim` of them are of `std`, the rest of
// `floor_std`.
TIP_HD float grid_step(float floor_std, float std, const float* amplitudes, int64_t taps, int64_t high_dim) {
  return grid_step(least_amount(floor_std, amplitudes + high_dim, 2 * taps - high_dim),
                   least_amount(std, amplitudes, high_dim));
}

// Rounds to multiples of a step, ties to even. A is float or double; a call takes it or a vector of it.
template <class A>
class Grid {
 public:
  TIP_HD explicit Grid(float step) : limit_(step * (sizeof(A) == sizeof(double) ? static_cast<A>(0x1p52) : 0x1p23f)) {}

  // Whether there is a grid.
  TIP_HD explicit operator bool() const { return limit_ > 0; }

  // From the limit to twice the limit, numbers are a step apart: the addition rounds. Values beyond the limit are not
  // moved there and stay what they are. Only if there is a grid: else -0 would become 0.
  template <class V>
  TIP_HD V operator()(V y) const {
    const V limit = limit_ - V{};
    const V shift = choose(magnitude(y) < limit, with_sign(limit, y), V{});
    return (y + shift) - shift;
  }

 private:
  A limit_;
};

// Rounds nothing.
struct NoGrid {
  template <class V>
  TIP_HD V operator()(V y) const {
    return y;
  }
};

TIP_END_NAMESPACE
