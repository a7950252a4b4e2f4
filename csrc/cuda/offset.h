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

// The sum of one kind of step from the first to the i-th point of some axes, innermost first.
template <int64_t Axis::* step>
TIP_HD int64_t steps_to(const Axis* axes, int count, int64_t i) {
  int64_t sum = 0;
  TIP_ROLLED
  for (int a = 0; a + 1 < count; ++a) {
    const int64_t outer = divide(i, axes[a].size);
    sum += (i - outer * axes[a].size) * (axes[a].*step);
    i = outer;
  }
  return count > 0 ? sum + i * (axes[count - 1].*step) : sum;
}

TIP_HD int64_t stride_offset(const Axis* axes, int count, int64_t i) { return steps_to<&Axis::stride>(axes, count, i); }

TIP_HD int64_t index_steps(const Axis* axes, int count, int64_t i) {
  return steps_to<&Axis::index_stride>(axes, count, i);
}

TIP_END_NAMESPACE
