// The elements of gradients: bfloat16 and float16 are converted to nearest even, on hosts without such types too.
#pragma once

#include "core/lanes.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace tip {

enum class DType : uint8_t { f32, f64, bf16, f16 };

}  // namespace tip

TIP_BEGIN_NAMESPACE

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

TIP_HD int64_t bytes_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }

TIP_HD float half_to_float(uint16_t half) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(half));
#else
  // 2^112 moves the exponent from half's bias to float's, subnormals included; infinity and NaN need the rest.
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7FFFu) << 13;
  const uint32_t special = magnitude >= 0x0F800000u ? 0x7F800000u : 0u;
  const uint32_t bits = float_bits(bits_float(magnitude) * 0x1p112f) | special;
  return bits_float(bits | static_cast<uint32_t>(half & 0x8000u) << 16);
#endif
}

TIP_HD uint16_t float_to_half(float x) {
#if defined(__CUDA_ARCH__)
  return __half_as_ushort(__float2half_rn(x));
#else
  const uint32_t bits = float_bits(x), magnitude = bits & 0x7FFFFFFFu, sign = bits >> 16 & 0x8000u;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14 halves are multiples of 2^-24, the last digit of floats around 1/2: an addition rounds.
    return static_cast<uint16_t>(sign | (float_bits(bits_float(magnitude) + 0.5f) - 0x3F000000u));
  }
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13);
#endif
}

// The bits of a bfloat16 from those of a float, for scalars and vectors of words.
template <class U, class Condition>
TIP_HD U round_to_bfloat16(U bits, Condition is_nan) {
  const U rounded = bits + 0x7FFFu + (bits >> 16 & 1u);
  const U quiet = bits | 0x400000u;  // rounding could carry a NaN into infinity
  return (is_nan ? quiet : rounded) >> 16;
}

TIP_HD uint16_t float_to_bfloat16(float x) {
#if defined(__CUDA_ARCH__)
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  return static_cast<uint16_t>(round_to_bfloat16(float_bits(x), x != x));
#endif
}

TIP_HD float value(float x) { return x; }
TIP_HD double value(double x) { return x; }
TIP_HD float value(BFloat16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }
TIP_HD float value(Half x) { return half_to_float(x.bits); }

TIP_HD void assign(float& to, float x) { to = x; }
TIP_HD void assign(double& to, double x) { to = x; }
TIP_HD void assign(BFloat16& to, float x) { to.bits = float_to_bfloat16(x); }
TIP_HD void assign(Half& to, float x) { to.bits = float_to_half(x); }

TIP_END_NAMESPACE
