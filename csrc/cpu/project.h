// Products of a basis with the normals of kLanes units at once.
#pragma once

#include "cpu/simd.h"
#include "cpu/work.h"

TIP_BEGIN_NAMESPACE

// y[k] = sum_j matrix[k][j] * z[j] for K rows and D columns, known at compile time unless 0.
template <int kTaps, int kDims>
TIP_HD void project(const float* matrix, int64_t taps, int64_t dims, const F* z, F* y) {
  const int64_t rows = kTaps ? kTaps : taps, columns = kDims ? kDims : dims;
#pragma GCC unroll 9
  for (int64_t k = 0; k < rows; ++k) {
    F sum = matrix[k * rows] * z[0];
#pragma GCC unroll 9
    for (int64_t j = 1; j < columns; ++j) sum += matrix[k * rows + j] * z[j];
    y[k] = sum;
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

inline void project_any(const Basis& basis, int64_t dims, const F* z, F* y) {
  if (basis.taps == 9 && dims == 8) return project<9, 8>(basis.rounded, 9, 8, z, y);
  if (basis.taps == 9 && dims == 4) return project<9, 4>(basis.rounded, 9, 4, z, y);
  if (basis.taps == 9 && dims == 9) return project<9, 9>(basis.rounded, 9, 9, z, y);
  project_large(basis.rounded, basis.taps, dims, z, y);
}

// columns[c] holds value c of every lane; writes them as rows, lane by lane. Destroys columns.
inline void to_rows(F* columns, int64_t count, float* rows) {
  for (int64_t c = 0; c < count; c += kLanes) transpose(columns + c);
  // In row order, since the last store of a row runs over into the next one.
  for (int lane = 0; lane < kLanes; ++lane)
    for (int64_t c = 0; c < count; c += kLanes) store(rows + lane * count + c, columns[c + lane]);
}

TIP_END_NAMESPACE
