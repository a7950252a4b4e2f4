// Where the units of a tensor lie, in memory and among the units of the whole, whose indices give them their random
// words (docs/design.md, section 3). Host code.
#pragma once

#include <algorithm>
#include <vector>

#include "core/inputs.h"

namespace tip {

// Index of the first kernel or, without a high band, of the first element.
inline int64_t first_unit(const TensorInput& tensor) {
  const int64_t kernel = tensor.shard.first_channel * tensor.shard.kernels + tensor.shard.first_kernel;
  return tensor.basis >= 0 ? kernel : kernel * tensor.shape.taps();
}

// The elements of a tensor without a high band, innermost axis first, of which each is a unit: along axis 0, whose size
// may be 1, units follow one another.
inline std::vector<Axis> element_axes(const TensorInput& tensor) {
  std::vector<Axis> axes;
  const Shape& shape = tensor.shape;
  const int64_t taps = shape.taps();
  int64_t index_stride = 1;
  for (int64_t dim = std::max<int64_t>(shape.dims, 2) - 1; dim >= 0; --dim) {
    if (dim == 1) index_stride = taps;
    if (dim == 0) index_stride = taps * tensor.shard.kernels;
    append_axis(axes, {shape.size(dim), shape.stride(dim), index_stride});
    index_stride *= shape.size(dim);
  }
  if (axes.empty() || axes[0].index_stride != 1) axes.insert(axes.begin(), {1, 1, 1});
  return axes;
}

}  // namespace tip
