// Several vectors that go through one computation side by side: the long dependency chains of log and sqrt then hide
// each other's latency, where one chain alone would leave the ports half idle.
#pragma once

#include "cpu/simd.h"

TIP_BEGIN_NAMESPACE

#if defined(__AVX512F__)
constexpr int kPack = 4;
#else
constexpr int kPack = 2;  // half the registers
#endif

template <class V, int kSize>
struct Pack {
  V v[kSize];
};

#define TIP_EACH(V, expression)                                                   \
  Pack<V, kSize> each;                                                            \
  _Pragma("GCC unroll 8") for (int i = 0; i < kSize; ++i) each.v[i] = expression; \
  return each

#define TIP_PACK_OPERATOR(op)                                             \
  template <class V, int kSize>                                           \
  TIP_HD Pack<V, kSize> operator op(Pack<V, kSize> a, Pack<V, kSize> b) { \
    TIP_EACH(V, a.v[i] op b.v[i]);                                        \
  }                                                                       \
  template <class V, int kSize, class Scalar>                             \
  TIP_HD Pack<V, kSize> operator op(Pack<V, kSize> a, Scalar b) {         \
    TIP_EACH(V, a.v[i] op b);                                             \
  }

TIP_PACK_OPERATOR(+)
TIP_PACK_OPERATOR(-)
TIP_PACK_OPERATOR(*)
TIP_PACK_OPERATOR(&)
TIP_PACK_OPERATOR(^)
TIP_PACK_OPERATOR(<<)
TIP_PACK_OPERATOR(>>)

#define TIP_PACK_FUNCTION(To, name, From)            \
  template <int kSize>                               \
  TIP_HD Pack<To, kSize> name(Pack<From, kSize> x) { \
    TIP_EACH(To, name(x.v[i]));                      \
  }

TIP_PACK_FUNCTION(F, to_float, U)
TIP_PACK_FUNCTION(F, to_float, I)
TIP_PACK_FUNCTION(I, as_int, U)
TIP_PACK_FUNCTION(U, as_uint, I)
TIP_PACK_FUNCTION(U, float_bits, F)
TIP_PACK_FUNCTION(F, bits_float, U)
TIP_PACK_FUNCTION(F, square_root, F)

#undef TIP_PACK_FUNCTION
#undef TIP_PACK_OPERATOR
#undef TIP_EACH

TIP_END_NAMESPACE
