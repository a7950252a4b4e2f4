// Where the elements of a tensor lie.
#pragma once

#include <vector>

#include "op/view.h"

namespace tip {

// Offsets, in row-major order, of the elements that these dimensions span, outermost first.
inline std::vector<int64_t> offsets_of(const std::vector<Dimension>& dims) {
  std::vector<int64_t> offsets = {0};
  for (const Dimension& dim : dims) {
    std::vector<int64_t> finer;
    finer.reserve(offsets.size() * dim.size);
    for (const int64_t offset : offsets)
      for (int64_t i = 0; i < dim.size; ++i) finer.push_back(offset + i * dim.stride);
    offsets.swap(finer);
  }
  return offsets;
}

}  // namespace tip
