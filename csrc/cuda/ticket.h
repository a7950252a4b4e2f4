// How a call on a GPU takes its step. All blocks of its first launch read the state; the last one to have done so
// advances it, so that no block sees the next step. Later launches of the call find it advanced.
#pragma once

#include "cuda/block.h"

TIP_BEGIN_NAMESPACE

TIP_HD uint64_t step_of(const TableHeader& header) {
  return static_cast<uint64_t>(header.state[4]) - (header.ticket < 0 ? 1 : 0);
}

// Called once by each of a launch's blocks, when all of its threads have read the state. `tickets` count the blocks of
// each state in use; they are zero between launches, since the last block brings its counter around.
TIP_HD void take_ticket(const TableHeader& header, unsigned int* tickets, unsigned int blocks, uint64_t step) {
  if (header.ticket < 0) return;
  fence();
  if (count_around(&tickets[header.ticket], blocks) == blocks - 1) header.state[4] = static_cast<int64_t>(step + 1);
}

TIP_END_NAMESPACE
