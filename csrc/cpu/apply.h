// Noise into gradients, unit by unit or row by row. Whole vectors of them: cpu/vectors.h.
#pragma once

#include "cpu/half.h"  // before core/grid.h, which uses its overloads

#include "core/grid.h"
#include "cpu/run.h"

TIP_BEGIN_NAMESPACE

// `units` units of a run, from its unit `first`.
template <class T>
struct Destination {
  T* data;
  int64_t units, unit_stride, taps;
  const int64_t* tap_offsets;
  bool contiguous;

  Destination(const Run& run, int64_t first, int64_t count)
      : data(reinterpret_cast<T*>(run.data) + first * run.unit_stride),
        units(count),
        unit_stride(run.unit_stride),
        taps(run.tensor->taps),
        tap_offsets(run.tensor->tap_offsets),
        contiguous(run.contiguous()) {}

  // Calls f(pointer to element, its index in [units][taps]) in an order that suits the strides.
  template <class Function>
  TIP_HD void for_each(Function f) const {
    if (unit_stride == 1) {  // channels_last: the same tap of successive kernels is contiguous
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t u = 0; u < units; ++u) f(data + tap_offsets[t] + u, u * taps + t);
    } else {
      for (int64_t u = 0; u < units; ++u)
        for (int64_t t = 0; t < taps; ++t) f(data + u * unit_stride + tap_offsets[t], u * taps + t);
    }
  }
};

// Brings memory that will be written to the first-level cache.
template <int kVectors, class T>
TIP_HD void prefetch(const T* x) {
  constexpr int64_t kLine = 64;
#pragma GCC unroll 18
  for (int64_t byte = 0; byte < static_cast<int64_t>(kVectors * kLanes * sizeof(T)); byte += kLine)
    __builtin_prefetch(reinterpret_cast<const char*>(x) + byte, 1);
}

// x <- scale * x + noise, rounded to a grid, for a vector of elements.
template <class T, class Round = NoGrid>
TIP_HD void add_vector(T* x, float scale, F noise, Round round = {}) {
  narrow(x, round(widen(x) * scale + noise));
}

// The same, noise [units][taps] in units of the gradient.
template <class T, class Round>
void add_rows(const Destination<T>& to, float scale, const float* noise, Round round) {
  if (!to.contiguous) {
    to.for_each([=](T* x, int64_t i) { assign(*x, round(value(*x) * scale + noise[i])); });
    return;
  }
  const int64_t count = to.units * to.taps;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) add_vector(to.data + i, scale, load(noise + i), round);
  for (; i < count; ++i) assign(to.data[i], round(value(to.data[i]) * scale + noise[i]));
}

template <class T, class A>
void scale_units(const Destination<T>& to, A scale) {
  if (!to.contiguous) {
    to.for_each([=](T* x, int64_t) { assign(*x, value(*x) * scale); });
    return;
  }
  const int64_t count = to.units * to.taps;
  for (int64_t i = 0; i < count; ++i) assign(to.data[i], value(to.data[i]) * scale);
}

template <class A>
TIP_HD const A* matrix_of(const Basis& basis) {
  if constexpr (sizeof(A) == sizeof(double)) {
    return basis.exact;
  } else {
    return basis.rounded;
  }
}

// z[j] += factor * (the high-band coefficient j of x)
template <class A>
void add_high_band(const A* q, const A* x, int64_t taps, int64_t high_dim, A factor, A* z) {
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t j = 0; j < high_dim; ++j) z[j] += factor * q[t * taps + j] * x[t];
}

// One unit at a time in arithmetic A, from its bare normals: x <- s x + Q (amplitude * normals - (1 - keep) high(s x)),
// rounded to the tensor's grid.
template <class T, class A>
void perturb_units(const Destination<T>& to, const RunTable& table, const Run& run, const float* normals, A* scratch) {
  const RunTensor& tensor = *run.tensor;
  const int64_t used = tensor.used, high_dim = tensor.basis ? tensor.basis->high_dim : 0;
  const bool white = run.noise == Noise::white;
  const Grid<A> grid(tensor.grid);
  A* x = scratch;
  A* z = scratch + to.taps;
  for (int64_t u = 0; u < to.units; ++u) {
    T* unit = to.data + u * to.unit_stride;
    for (int64_t t = 0; t < to.taps; ++t) x[t] = static_cast<A>(value(unit[to.tap_offsets[t]])) * table.grad_scale;
    for (int64_t j = 0; j < used; ++j) {
      const float amplitude = white || j >= high_dim ? tensor.floor_std : tensor.std;
      z[j] = static_cast<A>(amplitude) * normals[u * used + j];
    }
    if (white) {
      for (int64_t t = 0; t < to.taps; ++t) x[t] += z[t];
    } else {
      const A* q = matrix_of<A>(*tensor.basis);
      if (table.keep != 1.0) add_high_band(q, x, to.taps, high_dim, static_cast<A>(table.keep - 1.0), z);
      for (int64_t t = 0; t < to.taps; ++t)
        for (int64_t j = 0; j < used; ++j) x[t] += q[t * to.taps + j] * z[j];
    }
    if (grid)
      for (int64_t t = 0; t < to.taps; ++t) x[t] = grid(x[t]);
    for (int64_t t = 0; t < to.taps; ++t) assign(unit[to.tap_offsets[t]], x[t]);
  }
}

TIP_END_NAMESPACE
