// Where a point of several axes lies, for device code too.
#pragma once

#include "core/axes.h"
#include "core/macros.h"

TIP_BEGIN_NAMESPACE

// 64-bit division takes a GPU some hundred instructions, 32-bit division twenty.
TIP_HD int64_t divide(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// Elements of memory, or what is counted, from the first to the i-th point of some axes, innermost first.
TIP_HD int64_t stride_offset(const Axis* axes, int count, int64_t i) {
  int64_t offset = 0;
  TIP_ROLLED
  for (int a = 0; a + 1 < count; ++a) {
    const int64_t outer = divide(i, axes[a].size);
    offset += (i - outer * axes[a].size) * axes[a].stride;
    i = outer;
  }
  return count > 0 ? offset + i * axes[count - 1].stride : offset;
}

TIP_HD int64_t index_offset(const Axis* axes, int count, int64_t i) {
  int64_t offset = 0;
  TIP_ROLLED
  for (int a = 0; a + 1 < count; ++a) {
    const int64_t outer = divide(i, axes[a].size);
    offset += (i - outer * axes[a].size) * axes[a].index_stride;
    i = outer;
  }
  return count > 0 ? offset + i * axes[count - 1].index_stride : offset;
}

TIP_END_NAMESPACE
