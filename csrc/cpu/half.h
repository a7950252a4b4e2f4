// bfloat16 and float16 elements: conversion of single values and of vectors, to nearest even.
#pragma once

#include "cpu/simd.h"

TIP_BEGIN_NAMESPACE

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

typedef uint16_t U16 __attribute__((vector_size(2 * kLanes)));

TIP_HD F widen(const float* from) { return load(from); }
TIP_HD void narrow(float* to, F x) { store(to, x); }

TIP_HD F widen(const BFloat16* from) {
  U16 bits;
  memcpy(&bits, from, sizeof bits);
  return bits_float(__builtin_convertvector(bits, U) << 16);
}

TIP_HD void narrow(BFloat16* to, F x) {
  const U bits = float_bits(x);
  const U rounded = bits + 0x7FFFu + (bits >> 16 & 1u);
  const U quiet = bits | 0x400000u;  // rounding could carry a NaN into infinity
  const U16 high = __builtin_convertvector((x != x ? quiet : rounded) >> 16, U16);
  memcpy(to, &high, sizeof high);
}

TIP_HD float half_to_float(uint16_t half) {
  // 2^112 moves the exponent from half's bias to float's, subnormals included; infinity and NaN need the rest.
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7FFFu) << 13;
  const uint32_t special = magnitude >= 0x0F800000u ? 0x7F800000u : 0u;
  const uint32_t bits = float_bits(bits_float(magnitude) * 0x1p112f) | special;
  return bits_float(bits | static_cast<uint32_t>(half & 0x8000u) << 16);
}

TIP_HD uint16_t float_to_half(float x) {
  const uint32_t bits = float_bits(x), magnitude = bits & 0x7FFFFFFFu, sign = bits >> 16 & 0x8000u;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14 halves are multiples of 2^-24, the last digit of floats around 1/2: an addition rounds.
    return static_cast<uint16_t>(sign | (float_bits(bits_float(magnitude) + 0.5f) - 0x3F000000u));
  }
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13);
}

TIP_HD F widen(const Half* from) {
#if defined(__AVX512F__)
  __m256i bits;
  memcpy(&bits, from, sizeof bits);
  return reinterpret_cast<F>(_mm512_cvtph_ps(bits));
#elif defined(__AVX2__)
  __m128i bits;
  memcpy(&bits, from, sizeof bits);
  return reinterpret_cast<F>(_mm256_cvtph_ps(bits));
#else
  F x;
  for (int i = 0; i < kLanes; ++i) x[i] = half_to_float(from[i].bits);
  return x;
#endif
}

TIP_HD void narrow(Half* to, F x) {
#if defined(__AVX512F__)
  const __m256i bits = _mm512_cvtps_ph(reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT);
  memcpy(to, &bits, sizeof bits);
#elif defined(__AVX2__)
  const __m128i bits = _mm256_cvtps_ph(reinterpret_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT);
  memcpy(to, &bits, sizeof bits);
#else
  for (int i = 0; i < kLanes; ++i) to[i].bits = float_to_half(x[i]);
#endif
}

TIP_HD float value(float x) { return x; }
TIP_HD double value(double x) { return x; }
TIP_HD float value(BFloat16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }
TIP_HD float value(Half x) { return half_to_float(x.bits); }

TIP_HD void assign(float& to, float x) { to = x; }
TIP_HD void assign(double& to, double x) { to = x; }
TIP_HD void assign(Half& to, float x) { to.bits = float_to_half(x); }
TIP_HD void assign(BFloat16& to, float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = bits + 0x7FFFu + (bits >> 16 & 1u);
  to.bits = static_cast<uint16_t>((x != x ? bits | 0x400000u : rounded) >> 16);
}

TIP_END_NAMESPACE
