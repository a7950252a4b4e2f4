// Noise into gradients, row by row. Whole vectors of them: cpu/vectors.h.
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
template <class T, class V, class Round>
TIP_HD void add_vector(T* x, NumberOf<V> scale, V noise, Round round) {
  narrow(x, round(widen(x) * scale + noise));
}

// The same, noise [units][taps] in units of the gradient.
template <class T, class A, class Round>
void add_rows(const Destination<T>& to, A scale, const A* noise, Round round) {
  if (!to.contiguous) {
    to.for_each([=](T* x, int64_t i) { assign(*x, round(value(*x) * scale + noise[i])); });
    return;
  }
  constexpr int64_t kWidth = kLanesOf<VectorOf<T>>;
  const int64_t count = to.units * to.taps;
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) add_vector(to.data + i, scale, load(noise + i), round);
  for (; i < count; ++i) assign(to.data[i], round(value(to.data[i]) * scale + noise[i]));
}

// Gradients to rows [units][taps].
template <class T, class A>
void read_rows(const Destination<T>& from, A* rows) {
  if (!from.contiguous) {
    from.for_each([=](const T* x, int64_t i) { rows[i] = value(*x); });
    return;
  }
  constexpr int64_t kWidth = kLanesOf<VectorOf<T>>;
  const int64_t count = from.units * from.taps;
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(rows + i, widen(from.data + i));
  for (; i < count; ++i) rows[i] = value(from.data[i]);
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

// Calls f with an element of a dtype.
template <class Function>
void with_element(DType dtype, Function f) {
  switch (dtype) {
    case DType::f32: return f(float());
    case DType::f64: return f(double());
    case DType::bf16: return f(BFloat16());
    case DType::f16: return f(Half());
  }
}

// Calls f with what rounds to a grid of this step, 0 for none.
template <class A, class Function>
void with_grid(float step, Function f) {
  const Grid<A> grid(step);
  grid ? f(grid) : f(NoGrid());
}

TIP_END_NAMESPACE
