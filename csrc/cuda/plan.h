// From a call's inputs to the entries of tables. Host code without torch or CUDA.
#pragma once

#include <vector>

#include "core/inputs.h"
#include "cuda/table.h"

namespace tip {

struct PlannedTensor {
  Entry entry;
  std::vector<Axis> axes;  // of rows, then of taps
  int64_t tiles;
  int64_t shared_bytes;
};

// The tensors that have something to do. `passes`: lanes of a thread, where it can take several; 0 for as many as pay.
std::vector<PlannedTensor> plan_tensors(const Inputs& inputs, int passes = 0);

}  // namespace tip
