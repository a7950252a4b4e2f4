// The functions of cpu/perturb.cpp and cpu/words.cpp, which exist once per instruction set.
#pragma once

#include "cpu/portions.h"
#include "cpu/run.h"

namespace tip {

// Floats of the parts of cpu/scratch.h, in this order.
struct ScratchSizes {
  int64_t normals, coefficients, columns, gradients, rows;

  int64_t floats() const { return normals + coefficients + columns + gradients + rows; }
};

}  // namespace tip

#define TIP_DECLARE_PERTURB(variant)                                                                                 \
  namespace tip::variant {                                                                                           \
  /* Memory that each thread needs for its tiles. */                                                                 \
  ScratchSizes scratch_sizes(const RunTable& table);                                                                 \
  /* Perturbs portions of a table until none is left, with that memory, whose address is a multiple of 64. */        \
  void perturb_portions(const RunTable& table, Portions& portions, const ScratchSizes& sizes, float* memory);        \
  /* Words first .. first + count - 1 of a tensor's stream. */                                                       \
  void draw_words(const Stream& stream, int generator, uint32_t tensor, int64_t first, int64_t count, int32_t* out); \
  }
