// The factor that clips gradients, as torch.nn.utils.clip_grad_norm_ computes it, rounded down.
#pragma once

#include <cmath>

#include "core/macros.h"

TIP_BEGIN_NAMESPACE

// scale * min(1, max_norm / norm) for the norm of gradients times `scale`, whose squares without it sum up to `squares`.
// NaN stays NaN. What is below normal numbers would be rounded by more than the factor is lowered, and becomes 0.
TIP_HD float clipped_scale(double squares, float scale, double max_norm) {
  const double norm = sqrt(squares) * fabs(static_cast<double>(scale));
  const double factor = max_norm / (norm + 1e-6) * (1 - 0x1p-24);
  const float clipped = static_cast<float>((factor > 1 ? 1 : factor) * scale);
  return fabs(clipped) < 0x1p-126f ? 0.0f : clipped;
}

TIP_END_NAMESPACE
