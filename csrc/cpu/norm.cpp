// Sums of squares in float64: in float32 those of tens of millions of elements come out per cents too small.
#include "cpu/norm.h"

#include "cpu/half.h"

TIP_BEGIN_NAMESPACE

namespace {

TIP_HD void add_squares(F x, D& low, D& high) {
  const D a = slice_of<D>(&x, 0), b = slice_of<D>(&x, 1);
  low += a * a;
  high += b * b;
}

template <class T>
double sum_strided(const T* x, int64_t count, int64_t stride) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double element = value(x[i * stride]);
    sum += element * element;
  }
  return sum;
}

template <class T>
double sum_together(const T* x, int64_t count) {
  constexpr int kChains = 2;  // of additions that do not wait for one another
  D low[kChains] = {}, high[kChains] = {};
  int64_t i = 0;
  for (; i + kChains * kLanes <= count; i += kChains * kLanes)
    for (int chain = 0; chain < kChains; ++chain) add_squares(widen(x + i + chain * kLanes), low[chain], high[chain]);
  const D total = (low[0] + high[0]) + (low[1] + high[1]);
  double sum = 0;
  for (int lane = 0; lane < kLanesOf<D>; ++lane) sum += total[lane];
  return sum + sum_strided(x + i, count - i, 1);
}

double sum_together(const double* x, int64_t count) { return sum_strided(x, count, 1); }

template <class T>
double sum_as(const NormPiece& piece) {
  const std::vector<Axis>& axes = piece.tensor->axes;
  const Axis& inner = axes[0];
  double sum = 0;
  for (int64_t at = piece.begin; at < piece.end;) {
    const int64_t first = at % inner.size, count = std::min(piece.end - at, inner.size - first);
    const T* x = reinterpret_cast<const T*>(piece.tensor->data) + first * inner.stride;
    int64_t row = at / inner.size;
    for (size_t axis = 1; axis < axes.size(); row /= axes[axis++].size) x += row % axes[axis].size * axes[axis].stride;
    sum += inner.stride == 1 ? sum_together(x, count) : sum_strided(x, count, inner.stride);
    at += count;
  }
  return sum;
}

}  // namespace

double sum_of_squares(const NormPiece& piece) {
  switch (piece.tensor->dtype) {
    case DType::f32: return sum_as<float>(piece);
    case DType::f64: return sum_as<double>(piece);
    case DType::bf16: return sum_as<BFloat16>(piece);
    case DType::f16: return sum_as<Half>(piece);
  }
  return 0;
}

TIP_END_NAMESPACE
