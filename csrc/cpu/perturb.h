// The functions that exist once per instruction set.
#pragma once

#include "cpu/work.h"

#define TIP_DECLARE_VARIANT(variant)                                                                            \
  namespace tip::variant {                                                                                      \
  /* Memory that each thread needs for its tiles. */                                                            \
  ScratchSizes scratch_sizes(const Work& work);                                                                 \
  /* Perturbs portions of the work until none is left, with that memory, whose address is a multiple of 64. */  \
  void perturb_portions(const Work& work, Portions& portions, const ScratchSizes& sizes, float* memory);        \
  /* Words first .. first + count - 1 of a tensor's stream. */                                                  \
  void draw_words(const Work& work, uint32_t tensor, int64_t first, int64_t count, int32_t* out);               \
  }
