// Pairs of neighboring elements, aligned to their size, as floats.
#pragma once

#include "core/dtype.h"

TIP_BEGIN_NAMESPACE

struct Pair {
  float first, second;
};

template <class T>
struct alignas(2 * sizeof(T)) PairOf {
  T first, second;
};

template <class T>
TIP_HD Pair load_pair(const T* from) {
  const PairOf<T> pair = *reinterpret_cast<const PairOf<T>*>(from);
  return {value(pair.first), value(pair.second)};
}

TIP_HD void store_pair(float* to, Pair x) { *reinterpret_cast<PairOf<float>*>(to) = {x.first, x.second}; }

TIP_HD void store_pair(BFloat16* to, Pair x) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(x.first, x.second);
#else
  PairOf<BFloat16> pair;
  assign(pair.first, x.first), assign(pair.second, x.second);
  *reinterpret_cast<PairOf<BFloat16>*>(to) = pair;
#endif
}

TIP_HD void store_pair(Half* to, Pair x) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(x.first, x.second);
#else
  PairOf<Half> pair;
  assign(pair.first, x.first), assign(pair.second, x.second);
  *reinterpret_cast<PairOf<Half>*>(to) = pair;
#endif
}

// Calls f with a null pointer of the element type.
template <class F>
TIP_HD void with_small_type(DType dtype, F f) {
  if (dtype == DType::f32) {
    f(static_cast<float*>(nullptr));
  } else if (dtype == DType::bf16) {
    f(static_cast<BFloat16*>(nullptr));
  } else {
    f(static_cast<Half*>(nullptr));
  }
}

TIP_END_NAMESPACE
