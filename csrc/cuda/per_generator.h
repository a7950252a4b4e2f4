// The entry points of perturb.cu, which is compiled once for each generator, TIP_GENERATOR.
#pragma once

#include "cuda/launch.h"

namespace tip {

template <int kGenerator>
struct PerGenerator {
  static void perturb(const TableHeader& header, const std::vector<PlannedTensor>& tensors, void* stream);
  static void words(const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out, void* stream);
};

}  // namespace tip
