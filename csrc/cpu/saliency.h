// The function of cpu/saliency.cpp, which exists once per instruction set.
#pragma once

#include "core/activation_grad.h"

namespace tip {

struct ActivationGradByOffsets : ActivationGrad {
  const int64_t* space_offsets;  // null if point i of space lies at i * space_stride
  int64_t space_stride;
};

}  // namespace tip

#define TIP_DECLARE_SALIENCY(variant)                                                                    \
  namespace tip::variant {                                                                               \
  /* Scores of the channels [begin, end). */                                                             \
  void channel_saliency(const ActivationGradByOffsets& grad, float* scores, int64_t begin, int64_t end); \
  }
