// Sums of squares, or of quadratic forms of kernels, in float64: in float32 those of tens of millions of elements come
// out per cents too small.
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

// Of |form g|^2 over kernels g, a block of them at a time: tap by tap, so that lanes are kernels.
template <class T>
double sum_of_forms(const NormPiece& piece, double* block) {
  constexpr int kVectors = NormPiece::kKernels / kLanesOf<D>, kKernels = NormPiece::kKernels;
  const NormTensor& tensor = *piece.tensor;
  const int64_t taps = static_cast<int64_t>(tensor.taps.size());
  D sums[kVectors] = {};
  for (int64_t first = piece.begin; first < piece.end; first += kKernels) {
    const int64_t count = std::min<int64_t>(kKernels, piece.end - first);
    if (count < kKernels) std::fill_n(block, taps * kKernels, 0.0);
    for (int64_t kernel = 0; kernel < count; ++kernel) {
      const T* x = reinterpret_cast<const T*>(tensor.data);
      int64_t row = first + kernel;
      for (const Axis& axis : tensor.axes) x += row % axis.size * axis.stride, row /= axis.size;
      for (int64_t tap = 0; tap < taps; ++tap) block[tap * kKernels + kernel] = value(x[tensor.taps[tap]]);
    }
    for (int64_t coefficient = 0; coefficient < taps; ++coefficient) {
      const double* row = tensor.form + coefficient * taps;
      D found[kVectors] = {};
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int v = 0; v < kVectors; ++v) found[v] += row[tap] * load(block + tap * kKernels + v * kLanesOf<D>);
      for (int v = 0; v < kVectors; ++v) sums[v] += found[v] * found[v];
    }
  }
  double sum = 0;
  for (int v = 0; v < kVectors; ++v)
    for (int lane = 0; lane < kLanesOf<D>; ++lane) sum += sums[v][lane];
  return sum;
}

template <class T>
double sum_of(const NormPiece& piece, double* block) {
  const NormTensor& tensor = *piece.tensor;
  if (tensor.taps.size() > 1) return sum_of_forms<T>(piece, block);
  const double sum = sum_as<T>(piece);
  return tensor.form ? sum * tensor.form[0] * tensor.form[0] : sum;
}

}  // namespace

double sum_of_squares(const NormPiece& piece, double* block) {
  switch (piece.tensor->dtype) {
    case DType::f32: return sum_of<float>(piece, block);
    case DType::f64: return sum_of<double>(piece, block);
    case DType::bf16: return sum_of<BFloat16>(piece, block);
    case DType::f16: return sum_of<Half>(piece, block);
  }
  return 0;
}

TIP_END_NAMESPACE
