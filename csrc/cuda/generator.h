// The device code that exists once for each generator, compiled from perturb.cu with TIP_ROUNDS.
#pragma once

#include "cuda/launch.h"

namespace tip {

template <int kRounds>
struct Generator {
  static void perturb(const Call& call, const std::vector<PlannedTensor>& tensors, void* stream);
  static void words(const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out, void* stream);
};

}  // namespace tip
