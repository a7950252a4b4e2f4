// What every header in core/ needs to compile for the host and the device.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define TIP_HD __host__ __device__ __forceinline__
#define TIP_UNROLL _Pragma("unroll")
#define TIP_ROLLED _Pragma("unroll 1")
#else
#define TIP_HD inline __attribute__((always_inline))
#define TIP_UNROLL
#define TIP_ROLLED
#endif

// Kernels are compiled once per instruction set; without a namespace of their own the linker would merge their
// inline functions, and code for the widest set could run on a processor that lacks it.
#if defined(TIP_VARIANT)
#define TIP_BEGIN_NAMESPACE \
  namespace tip {           \
  inline namespace TIP_VARIANT {
#else
#define TIP_BEGIN_NAMESPACE \
  namespace tip {           \
  inline namespace common {
#endif
#define TIP_END_NAMESPACE \
  }                       \
  }
