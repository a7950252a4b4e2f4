// Sums of squares: a function of cpu/norm.cpp, which exists once per instruction set.
#pragma once

#include <algorithm>
#include <vector>

#include "core/axes.h"
#include "core/dtype.h"

namespace tip {

// A tensor as its axes from the densest on, since the order of what is summed does not matter: axes of its elements or,
// where these count by a form of several taps, of its kernels.
struct NormTensor {
  const char* data;
  DType dtype;
  std::vector<Axis> axes;
  const double* form;         // [taps, taps] row-major: a kernel g adds |form g|^2; null if elements count as they are
  std::vector<int64_t> taps;  // offsets of a kernel's, of which an element has one
};

// Some of its elements or kernels, counted along the axes. Pieces do not depend on the number of threads, nor does the
// sum.
struct NormPiece {
  static constexpr int64_t kElements = 65536;
  static constexpr int kKernels = 32;  // that are worked on together, in a block [taps, kKernels] of memory
  const NormTensor* tensor;
  int64_t begin, end;
};

inline std::vector<Axis> axes_by_stride(const Shape& shape) {
  std::vector<Axis> dims, axes;
  for (int64_t dim = 0; dim < shape.dims; ++dim)
    if (shape.sizes[dim] != 1) dims.push_back({shape.sizes[dim], shape.strides[dim], 0});
  std::sort(dims.begin(), dims.end(), [](const Axis& a, const Axis& b) { return a.stride < b.stride; });
  for (const Axis& dim : dims) append_axis(axes, dim);
  if (axes.empty()) axes.push_back({1, 1, 0});
  return axes;
}

inline void append_pieces(const NormTensor& tensor, std::vector<NormPiece>& pieces) {
  int64_t count = 1;
  for (const Axis& axis : tensor.axes) count *= axis.size;
  const int64_t step = std::max<int64_t>(1, NormPiece::kElements / static_cast<int64_t>(tensor.taps.size()));
  for (int64_t begin = 0; begin < count; begin += step)
    pieces.push_back({&tensor, begin, std::min(count, begin + step)});
}

// A tensor that counts by a form of so many taps, or with null as it is.
inline NormTensor norm_tensor(const char* data, DType dtype, const Shape& shape, const double* form, int64_t taps) {
  if (taps == 1) return {data, dtype, axes_by_stride(shape), form, {0}};
  return {data, dtype, axes_by_stride({2, shape.sizes, shape.strides}), form, offsets_of(axes_of(shape, 2))};
}

}  // namespace tip

#define TIP_DECLARE_NORM(variant)                               \
  namespace tip::variant {                                      \
  double sum_of_squares(const NormPiece& piece, double* block); \
  }
