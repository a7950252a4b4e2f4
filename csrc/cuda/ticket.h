// How a call on a GPU takes its step. All blocks of its first launch read the state; the last one to have done so
// advances it, so that no block sees the next step. Later launches of the call find it advanced.
#pragma once

#include "cuda/block.h"

TIP_BEGIN_NAMESPACE

TIP_HD uint64_t step_of(const TableHeader& header) {
  return static_cast<uint64_t>(header.state[4]) - (header.takes_step ? 0 : 1);
}

// Called once by each of a launch's blocks, when all of its threads have read the state. The blocks count themselves in
// the state's last word, which the last of them brings back to 0. Calls that share a state follow one another. The store
// needs no fence: it waits for the branch, and the branch for all reads of other blocks.
TIP_HD void take_ticket(const TableHeader& header, unsigned int blocks, uint64_t step) {
  if (!header.takes_step) return;
  unsigned int* counter = reinterpret_cast<unsigned int*>(header.state + 5);
  if (count_around(counter, blocks) == blocks - 1) header.state[4] = static_cast<int64_t>(step + 1);
}

TIP_END_NAMESPACE
