// Vectors of 32-bit lanes in the width of the instruction set at hand, from GCC's and Clang's vector extension.
#pragma once

#include <utility>

#include "core/lanes.h"

#if defined(__SSE2__)
#if !defined(__clang__)  // GCC 12 warns about its own AVX-512 header
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

TIP_BEGIN_NAMESPACE

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef uint32_t U __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes)));
typedef float F __attribute__((vector_size(4 * kLanes)));

TIP_HD F to_float(U x) { return __builtin_convertvector(x, F); }
TIP_HD F to_float(I x) { return __builtin_convertvector(x, F); }
TIP_HD I as_int(U x) { return reinterpret_cast<I>(x); }
TIP_HD U as_uint(I x) { return reinterpret_cast<U>(x); }
TIP_HD U float_bits(F x) { return reinterpret_cast<U>(x); }
TIP_HD F bits_float(U x) { return reinterpret_cast<F>(x); }
TIP_HD F choose(I condition, F yes, F no) { return condition ? yes : no; }
TIP_HD F magnitude(F x) { return bits_float(float_bits(x) & 0x7FFFFFFFu); }
TIP_HD F with_sign(F magnitude, F of) { return bits_float(float_bits(magnitude) | (float_bits(of) & 0x80000000u)); }

TIP_HD F square_root(F x) {
#if defined(__AVX512F__)
  return reinterpret_cast<F>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
#elif defined(__AVX2__)
  return reinterpret_cast<F>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#elif defined(__aarch64__)
  return reinterpret_cast<F>(vsqrtq_f32(reinterpret_cast<float32x4_t>(x)));
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// 32-bit values in 64-bit lanes, whose upper halves are ignored: what vector multiplications to 64 bits read.
typedef uint64_t W __attribute__((vector_size(4 * kLanes)));
struct Factors {
  W even, odd;
};

TIP_HD W multiply_lower_halves(W a, uint32_t b) {
#if defined(__AVX512F__)
  return reinterpret_cast<W>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi32(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<W>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi32(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<W>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi32(b)));
#else
  return (a & 0xFFFFFFFFu) * b;
#endif
}

TIP_HD Factors to_factors(U x) { return {reinterpret_cast<W>(x), reinterpret_cast<W>(x) >> 32}; }
TIP_HD U from_factors(Factors x) { return reinterpret_cast<U>((x.even & 0xFFFFFFFFu) | x.odd << 32); }
TIP_HD Factors operator^(Factors a, Factors b) { return {a.even ^ b.even, a.odd ^ b.odd}; }
TIP_HD Factors operator^(Factors a, uint32_t b) { return {a.even ^ b, a.odd ^ b}; }

TIP_HD void multiply_wide(Factors a, uint32_t b, Factors& high, Factors& low) {
  low = {multiply_lower_halves(a.even, b), multiply_lower_halves(a.odd, b)};
  high = {low.even >> 32, low.odd >> 32};
}

// Reads and writes of vectors at any address.
TIP_HD F load(const float* from) {
  F x;
  memcpy(&x, from, sizeof x);
  return x;
}
TIP_HD void store(float* to, F x) { memcpy(to, &x, sizeof x); }

// Float i of the result is float from[i] of a and b in a row.
template <int... from>
TIP_HD F shuffle(F a, F b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, from...);
#else
  return __builtin_shuffle(a, b, I{from...});
#endif
}

constexpr auto kEachLane = std::make_integer_sequence<int, kLanes>();

// One exchange of the transposition: swaps blocks of kStride lanes between rows that are kStride apart.
template <int kStride, int... i>
TIP_HD void exchange(F& a, F& b, std::integer_sequence<int, i...>) {
  const F low = shuffle<(i & kStride ? i - kStride + kLanes : i)...>(a, b);
  b = shuffle<(i & kStride ? i + kLanes : i + kStride)...>(a, b);
  a = low;
}

template <int kStride>
TIP_HD void transpose_from(F* rows) {
  if constexpr (kStride > 0) {
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r)
      if (!(r & kStride)) exchange<kStride>(rows[r], rows[r + kStride], kEachLane);
    transpose_from<kStride / 2>(rows);
  }
}

// Transposes kLanes x kLanes floats.
TIP_HD void transpose(F* rows) { transpose_from<kLanes / 2>(rows); }

// The floats of a and b in turns: a[0], b[0], a[1], and so on.
template <int... i>
TIP_HD void zip(F a, F b, F zipped[2], std::integer_sequence<int, i...>) {
  zipped[0] = shuffle<(i / 2 + i % 2 * kLanes)...>(a, b);
  zipped[1] = shuffle<(kLanes / 2 + i / 2 + i % 2 * kLanes)...>(a, b);
}
TIP_HD void zip(F a, F b, F zipped[2]) { zip(a, b, zipped, kEachLane); }

TIP_END_NAMESPACE
