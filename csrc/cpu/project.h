// Products of a basis with the normals of kLanes units at once.
#pragma once

#include "cpu/simd.h"

#include "core/basis3x3.h"
#include "cpu/run.h"

TIP_BEGIN_NAMESPACE

// y[k] = sum_j matrix[k][j] * z[j] for several units, so that each matrix element is read once for all of them.
template <int kTaps, int kDims, int kUnits>
TIP_HD void project(const float* matrix, const F* z, int64_t pitch, F* y) {
#pragma GCC unroll 9
  for (int k = 0; k < kTaps; ++k) {
    F sum[kUnits];
#pragma GCC unroll 9
    for (int j = 0; j < kDims; ++j) {
      const F factor = matrix[k * kTaps + j] - F{};
#pragma GCC unroll 4
      for (int u = 0; u < kUnits; ++u) sum[u] = j == 0 ? factor * z[u * pitch] : sum[u] + factor * z[u * pitch + j];
    }
#pragma GCC unroll 4
    for (int u = 0; u < kUnits; ++u) y[u * kTaps + k] = sum[u];
  }
}

// Four rows at a time, so that each z[j] is read once for four products.
inline void project_large(const float* matrix, int64_t taps, int64_t dims, const F* z, F* y) {
  int64_t k = 0;
  for (; k + 4 <= taps; k += 4) {
    const float* row = matrix + k * taps;
    F sum[4] = {};
    for (int64_t j = 0; j < dims; ++j)
      for (int i = 0; i < 4; ++i) sum[i] += row[i * taps + j] * z[j];
    for (int i = 0; i < 4; ++i) y[k + i] = sum[i];
  }
  for (; k < taps; ++k) {
    F sum = matrix[k * taps] * z[0];
    for (int64_t j = 1; j < dims; ++j) sum += matrix[k * taps + j] * z[j];
    y[k] = sum;
  }
}

// 3x3 kernels with the band of cutoff 0.5 go by cpu/kernel3x3.h, those of cutoff 0.75 have a case of their own.
inline void project_units(const Basis& basis, int64_t units, int64_t dims, const F* z, int64_t pitch, F* y) {
  if (basis.taps == 9 && dims == 4) return project<9, 4, 4>(basis.rounded, z, pitch, y);
  for (int64_t u = 0; u < units; ++u)
    project_large(basis.rounded, basis.taps, dims, z + u * pitch, y + u * basis.taps);
}

// columns[c] holds value c of every lane; writes them as rows, lane by lane. Destroys columns.
template <int kCount>
TIP_HD void to_rows(F* columns, int64_t runtime_count, float* rows) {
  constexpr int64_t kWorthTransposing = kLanes / 4;
  const int64_t count = kCount ? kCount : runtime_count;
  int64_t c = 0;
  for (; c + kWorthTransposing < count; c += kLanes) transpose(columns + c);
  // In row order, since the last vector of a row may run over into the next one.
  const float* rest = reinterpret_cast<const float*>(columns + c);
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes; ++lane) {
    float* row = rows + lane * count;
    for (int64_t i = 0; i < c; i += kLanes) store(row + i, columns[i + lane]);
    for (int64_t i = c; i < count; ++i) row[i] = rest[(i - c) * kLanes + lane];
  }
}

inline void to_rows(F* columns, int64_t count, float* rows) {
  if (count == kPair3x3) return to_rows<kPair3x3>(columns, count, rows);
  to_rows<0>(columns, count, rows);
}

TIP_END_NAMESPACE
