// Sums of squares: a function of cpu/norm.cpp, which exists once per instruction set.
#pragma once

#include <algorithm>
#include <vector>

#include "core/axes.h"
#include "core/dtype.h"

namespace tip {

// A tensor as its axes from the densest on, since the order of what is summed does not matter.
struct NormTensor {
  const char* data;
  DType dtype;
  std::vector<Axis> axes;
};

// Some of its elements, counted along the axes. Pieces do not depend on the number of threads, nor does the sum.
struct NormPiece {
  static constexpr int64_t kElements = 65536;
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
  for (int64_t begin = 0; begin < count; begin += NormPiece::kElements)
    pieces.push_back({&tensor, begin, std::min(count, begin + NormPiece::kElements)});
}

}  // namespace tip

#define TIP_DECLARE_NORM(variant)              \
  namespace tip::variant {                     \
  double sum_of_squares(const NormPiece& piece); \
  }
