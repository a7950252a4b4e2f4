// Dimensions of tensors as axes: neighbors that continue one another are one axis. Host code.
#pragma once

#include <cstdint>
#include <vector>

namespace tip {

// Sizes and strides of a tensor, in elements.
struct Shape {
  int64_t dims;
  const int64_t *sizes, *strides;

  int64_t size(int64_t dim) const { return dim < dims ? sizes[dim] : 1; }
  int64_t stride(int64_t dim) const { return dim < dims ? strides[dim] : 1; }

  // Of a kernel, in a tensor [C, M, *kernel_size].
  int64_t taps() const {
    int64_t count = 1;
    for (int64_t dim = 2; dim < dims; ++dim) count *= sizes[dim];
    return count;
  }
};

struct Axis {
  int64_t size;
  int64_t stride;        // elements of memory from one point of the axis to the next
  int64_t index_stride;  // of what is counted, such as the units of the whole tensor
};

// Appends a dimension outside the others, or lets the last axis grow if the dimension goes on where that one ends.
inline void append_axis(std::vector<Axis>& axes, Axis next) {
  if (next.size == 1) return;
  if (!axes.empty()) {
    Axis& last = axes.back();
    if (last.stride * last.size == next.stride && last.index_stride * last.size == next.index_stride) {
      last.size *= next.size;
      return;
    }
  }
  axes.push_back(next);
}

// The axes of the dimensions from `first_dim` on, innermost first, counted in row-major order; one of size 1 for none.
inline std::vector<Axis> axes_of(const Shape& shape, int64_t first_dim) {
  std::vector<Axis> axes;
  int64_t index_stride = 1;
  for (int64_t dim = shape.dims - 1; dim >= first_dim; --dim) {
    append_axis(axes, {shape.sizes[dim], shape.strides[dim], index_stride});
    index_stride *= shape.sizes[dim];
  }
  if (axes.empty()) axes.push_back({1, 1, 1});
  return axes;
}

// Whether the points of these axes lie one after the other.
inline bool are_contiguous(const std::vector<Axis>& axes) { return axes.size() == 1 && axes[0].stride == 1; }

// Offsets of the points that axes span, innermost axis first and fastest.
inline std::vector<int64_t> offsets_of(const std::vector<Axis>& axes) {
  std::vector<int64_t> offsets = {0};
  for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
    std::vector<int64_t> finer;
    finer.reserve(offsets.size() * axis->size);
    for (const int64_t offset : offsets)
      for (int64_t i = 0; i < axis->size; ++i) finer.push_back(offset + i * axis->stride);
    offsets.swap(finer);
  }
  return offsets;
}

}  // namespace tip
