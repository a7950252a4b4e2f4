// Vectors of elements as vectors of floats, or of doubles, and back; bfloat16 and float16 are rounded to nearest even.
#pragma once

#include "cpu/simd.h"

#include "core/dtype.h"

TIP_BEGIN_NAMESPACE

typedef uint16_t U16 __attribute__((vector_size(2 * kLanes)));

TIP_HD F widen(const float* from) { return load(from); }
TIP_HD void narrow(float* to, F x) { store(to, x); }
TIP_HD D widen(const double* from) { return load(from); }
TIP_HD void narrow(double* to, D x) { store(to, x); }

// Of 16-bit lanes; GCC 12 would take five instructions of one port for what AVX2 does in one.
TIP_HD U widen(U16 x) {
#if defined(__AVX512F__)
  return reinterpret_cast<U>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(x)));
#elif defined(__AVX2__)
  return reinterpret_cast<U>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(x)));
#else
  return __builtin_convertvector(x, U);
#endif
}

TIP_HD F widen(const BFloat16* from) {
  U16 bits;
  memcpy(&bits, from, sizeof bits);
  return bits_float(widen(bits) << 16);
}

TIP_HD void narrow(BFloat16* to, F x) {
  const U16 high = __builtin_convertvector(round_to_bfloat16(float_bits(x), x != x), U16);
  memcpy(to, &high, sizeof high);
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

TIP_END_NAMESPACE
