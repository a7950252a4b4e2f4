// Vectors in the width of the instruction set at hand, from GCC's and Clang's vector extension: of 32-bit lanes and,
// for float64 gradients, of half as many doubles.
#pragma once

#include <type_traits>
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

typedef double D __attribute__((vector_size(4 * kLanes)));
typedef decltype(D{} < D{}) DCondition;
typedef uint64_t W __attribute__((vector_size(4 * kLanes)));

TIP_HD D choose(DCondition condition, D yes, D no) { return condition ? yes : no; }
TIP_HD D magnitude(D x) { return reinterpret_cast<D>(reinterpret_cast<W>(x) & 0x7FFFFFFFFFFFFFFFu); }
TIP_HD D with_sign(D magnitude, D of) {
  return reinterpret_cast<D>(reinterpret_cast<W>(magnitude) | (reinterpret_cast<W>(of) & 0x8000000000000000u));
}

// The vector V for the arithmetic of elements T, its numbers and their count, and how many of it, slices, hold as many
// lanes as an F.
template <class T>
using VectorOf = std::conditional_t<sizeof(T) == sizeof(double), D, F>;
template <class V>
using NumberOf = std::conditional_t<std::is_same_v<V, D>, double, float>;
template <class V>
constexpr int kLanesOf = sizeof(V) / sizeof(NumberOf<V>);
template <class V>
constexpr int kSlices = kLanes / kLanesOf<V>;

// Slice `slice` of the lanes of the vector at x.
template <class V>
TIP_HD V slice_of(const F* x, int slice) {
  if constexpr (kSlices<V> == 1) {
    return *x;
  } else {
    typedef float Floats __attribute__((vector_size(2 * kLanes)));
    Floats floats;
    memcpy(&floats, reinterpret_cast<const char*>(x) + slice * sizeof floats, sizeof floats);
    return __builtin_convertvector(floats, V);
  }
}

// 32-bit values in 64-bit lanes, whose upper halves are ignored: what vector multiplications to 64 bits read.
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
TIP_HD D load(const double* from) {
  D x;
  memcpy(&x, from, sizeof x);
  return x;
}
TIP_HD void store(float* to, F x) { memcpy(to, &x, sizeof x); }
TIP_HD void store(double* to, D x) { memcpy(to, &x, sizeof x); }

TIP_END_NAMESPACE
