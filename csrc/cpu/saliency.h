// channel_saliency: sum over samples of |mean over space| of an activation gradient, in one read.
#pragma once

#include "cpu/work.h"

namespace tip {

// A gradient [samples, channels, *space] of any strides, in elements.
struct ActivationGrad {
  DType dtype;
  const char* data;
  int64_t samples, channels, space;
  int64_t sample_stride, channel_stride;
  const int64_t* space_offsets;  // null if element i of space lies at i * space_stride
  int64_t space_stride;
};

}  // namespace tip

#define TIP_DECLARE_SALIENCY(variant)                                                                          \
  namespace tip::variant {                                                                                      \
  /* Scores of the channels [begin, end). */                                                                    \
  void channel_saliency(const ActivationGrad& grad, float* scores, int64_t begin, int64_t end);                 \
  }
