// What channel_saliency reads: sum over samples of |mean over space| of an activation gradient.
#pragma once

#include "core/dtype.h"

namespace tip {

// A gradient [samples, channels, *space] of any strides, in elements, but for where the points of space lie.
struct ActivationGrad {
  DType dtype;
  const char* data;
  int64_t samples, channels, space;
  int64_t sample_stride, channel_stride;
};

}  // namespace tip
