// Vectors of 32-bit lanes in the width of the instruction set at hand, from GCC's and Clang's vector extension.
#pragma once

#include <utility>

#include "core/lanes.h"

#if defined(__AVX2__)
#include <immintrin.h>
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

TIP_HD void multiply_wide(U a, uint32_t b, U& high, U& low) {
#if defined(__AVX512F__)
  const __m512i x = reinterpret_cast<__m512i>(a), factor = _mm512_set1_epi64(b);
  const __m512i even = _mm512_mul_epu32(x, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), factor);
  high = reinterpret_cast<U>(_mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xAAAA, odd));
  low = reinterpret_cast<U>(_mm512_mask_mov_epi32(even, 0xAAAA, _mm512_slli_epi64(odd, 32)));
#elif defined(__AVX2__)
  const __m256i x = reinterpret_cast<__m256i>(a), factor = _mm256_set1_epi64x(b);
  const __m256i even = _mm256_mul_epu32(x, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
  high = reinterpret_cast<U>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA));
  low = reinterpret_cast<U>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA));
#else
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t product = static_cast<uint64_t>(a[i]) * b;
    high[i] = static_cast<uint32_t>(product >> 32);
    low[i] = static_cast<uint32_t>(product);
  }
#endif
}

// Several vectors that go through one computation side by side: the long dependency chains of log and sqrt then
// hide each other's latency, where one chain alone would leave the ports half idle.
template <class V>
struct Pack {
#if defined(__AVX512F__)
  static constexpr int kSize = 4;
#else
  static constexpr int kSize = 2;  // half the registers
#endif
  V v[kSize];
};

#define TIP_EACH(result, expression)                                   \
  result each;                                                         \
  _Pragma("GCC unroll 4") for (int i = 0; i < result::kSize; ++i) each.v[i] = expression; \
  return each

#define TIP_PACK_OPERATOR(op)                                                                  \
  template <class V>                                                                           \
  TIP_HD Pack<V> operator op(Pack<V> a, Pack<V> b) { TIP_EACH(Pack<V>, a.v[i] op b.v[i]); }    \
  template <class V, class Scalar>                                                             \
  TIP_HD Pack<V> operator op(Pack<V> a, Scalar b) { TIP_EACH(Pack<V>, a.v[i] op b); }

TIP_PACK_OPERATOR(+)
TIP_PACK_OPERATOR(-)
TIP_PACK_OPERATOR(*)
TIP_PACK_OPERATOR(&)
TIP_PACK_OPERATOR(^)
TIP_PACK_OPERATOR(<<)
TIP_PACK_OPERATOR(>>)

TIP_HD Pack<I> operator!=(Pack<U> a, uint32_t b) { TIP_EACH(Pack<I>, a.v[i] != b); }
TIP_HD Pack<F> to_float(Pack<U> x) { TIP_EACH(Pack<F>, to_float(x.v[i])); }
TIP_HD Pack<F> to_float(Pack<I> x) { TIP_EACH(Pack<F>, to_float(x.v[i])); }
TIP_HD Pack<I> as_int(Pack<U> x) { TIP_EACH(Pack<I>, as_int(x.v[i])); }
TIP_HD Pack<U> as_uint(Pack<I> x) { TIP_EACH(Pack<U>, as_uint(x.v[i])); }
TIP_HD Pack<U> float_bits(Pack<F> x) { TIP_EACH(Pack<U>, float_bits(x.v[i])); }
TIP_HD Pack<F> bits_float(Pack<U> x) { TIP_EACH(Pack<F>, bits_float(x.v[i])); }
TIP_HD Pack<F> square_root(Pack<F> x) { TIP_EACH(Pack<F>, square_root(x.v[i])); }
TIP_HD Pack<F> choose(Pack<I> c, Pack<F> yes, Pack<F> no) { TIP_EACH(Pack<F>, choose(c.v[i], yes.v[i], no.v[i])); }

// Reads and writes of vectors at any address.
TIP_HD F load(const float* from) {
  F x;
  memcpy(&x, from, sizeof x);
  return x;
}
TIP_HD void store(float* to, F x) { memcpy(to, &x, sizeof x); }

// One exchange of the transposition: swaps blocks of kStride lanes between rows that are kStride apart.
#if defined(__clang__)
template <int kStride, int... i>
TIP_HD F exchange_low(F a, F b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (i & kStride ? i - kStride + kLanes : i)...);
}
template <int kStride, int... i>
TIP_HD F exchange_high(F a, F b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (i & kStride ? i + kLanes : i + kStride)...);
}
#else
template <int kStride, int... i>
TIP_HD F exchange_low(F a, F b, std::integer_sequence<int, i...>) {
  return __builtin_shuffle(a, b, I{(i & kStride ? i - kStride + kLanes : i)...});
}
template <int kStride, int... i>
TIP_HD F exchange_high(F a, F b, std::integer_sequence<int, i...>) {
  return __builtin_shuffle(a, b, I{(i & kStride ? i + kLanes : i + kStride)...});
}
#endif

template <int kStride>
TIP_HD void transpose_from(F* rows) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
  if constexpr (kStride > 0) {
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) {
      if (r & kStride) continue;
      const F a = rows[r], b = rows[r + kStride];
      rows[r] = exchange_low<kStride>(a, b, lanes);
      rows[r + kStride] = exchange_high<kStride>(a, b, lanes);
    }
    transpose_from<kStride / 2>(rows);
  }
}

// Transposes kLanes x kLanes floats.
TIP_HD void transpose(F* rows) { transpose_from<kLanes / 2>(rows); }

TIP_END_NAMESPACE
