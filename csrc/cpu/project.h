// Products of a basis with the coefficients of units, or with their gradients: value by value, of all lanes at once.
#pragma once

#include "cpu/simd.h"

#include "cpu/run.h"

TIP_BEGIN_NAMESPACE

template <class A>
TIP_HD const A* matrix_of(const Basis& basis) {
  if constexpr (sizeof(A) == sizeof(double)) {
    return basis.exact;
  } else {
    return basis.rounded;
  }
}

// y[k] = sum_j matrix[k][j] * z[j] for several units, so that each matrix element is read once for all of them.
template <int kTaps, int kDims, int kUnits, class V>
TIP_HD void project(const NumberOf<V>* matrix, const V* z, int64_t pitch, V* y) {
#pragma GCC unroll 9
  for (int k = 0; k < kTaps; ++k) {
    V sum[kUnits];
#pragma GCC unroll 9
    for (int j = 0; j < kDims; ++j) {
      const V factor = matrix[k * kTaps + j] - V{};
#pragma GCC unroll 4
      for (int u = 0; u < kUnits; ++u) sum[u] = j == 0 ? factor * z[u * pitch] : sum[u] + factor * z[u * pitch + j];
    }
#pragma GCC unroll 4
    for (int u = 0; u < kUnits; ++u) y[u * kTaps + k] = sum[u];
  }
}

// Four rows at a time, so that each z[j] is read once for four products.
template <class V>
void project_large(const NumberOf<V>* matrix, int64_t taps, int64_t dims, const V* z, V* y) {
  int64_t k = 0;
  for (; k + 4 <= taps; k += 4) {
    const NumberOf<V>* row = matrix + k * taps;
    V sum[4] = {};
    for (int64_t j = 0; j < dims; ++j)
      for (int i = 0; i < 4; ++i) sum[i] += row[i * taps + j] * z[j];
    for (int i = 0; i < 4; ++i) y[k + i] = sum[i];
  }
  for (; k < taps; ++k) {
    V sum = matrix[k * taps] * z[0];
    for (int64_t j = 1; j < dims; ++j) sum += matrix[k * taps + j] * z[j];
    y[k] = sum;
  }
}

// 3x3 kernels with the band of cutoff 0.5 go by cpu/kernel3x3.h, those of cutoff 0.75 have a case of their own.
template <class V>
void project_units(const Basis& basis, int64_t units, int64_t dims, const V* z, int64_t pitch, V* y) {
  const NumberOf<V>* matrix = matrix_of<NumberOf<V>>(basis);
  if (basis.taps == 9 && dims == 4) return project<9, 4, 4>(matrix, z, pitch, y);
  for (int64_t u = 0; u < units; ++u) project_large(matrix, basis.taps, dims, z + u * pitch, y + u * basis.taps);
}

// z[j] += factor * sum_k matrix[k][j] * x[k] for the high band of a unit, four coefficients at a time.
template <class V>
void add_high_band(const Basis& basis, NumberOf<V> factor, const V* x, V* z) {
  const NumberOf<V>* matrix = matrix_of<NumberOf<V>>(basis);
  const int64_t taps = basis.taps, dims = basis.high_dim;
  int64_t j = 0;
  for (; j + 4 <= dims; j += 4) {
    V sum[4] = {};
    for (int64_t k = 0; k < taps; ++k)
      for (int i = 0; i < 4; ++i) sum[i] += matrix[k * taps + j + i] * x[k];
    for (int i = 0; i < 4; ++i) z[j + i] += factor * sum[i];
  }
  for (; j < dims; ++j) {
    V sum = {};
    for (int64_t k = 0; k < taps; ++k) sum += matrix[k * taps + j] * x[k];
    z[j] += factor * sum;
  }
}

TIP_END_NAMESPACE
