// What kernels need to know of a torch tensor.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "cpu/work.h"

namespace tip {

using torch::stable::Tensor;

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case torch::headeronly::ScalarType::Double: return DType::f64;
    case torch::headeronly::ScalarType::BFloat16: return DType::bf16;
    case torch::headeronly::ScalarType::Half: return DType::f16;
    default: return DType::f32;
  }
}

// Offsets, in row-major order, of the elements spanned by the dimensions from 2 on: taps, or pixels.
inline std::vector<int64_t> spatial_offsets(const Tensor& tensor) {
  std::vector<int64_t> offsets = {0};
  for (int64_t dim = 2; dim < tensor.dim(); ++dim) {
    std::vector<int64_t> finer;
    finer.reserve(offsets.size() * tensor.size(dim));
    for (const int64_t offset : offsets)
      for (int64_t i = 0; i < tensor.size(dim); ++i) finer.push_back(offset + i * tensor.stride(dim));
    offsets.swap(finer);
  }
  return offsets;
}

}  // namespace tip
