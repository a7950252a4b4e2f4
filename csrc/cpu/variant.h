// The instruction set that kernels run on: the best that this processor has of those that setup.py compiled.
#pragma once

#include "cpu/norm.h"
#include "cpu/perturb.h"
#include "cpu/saliency.h"

namespace tip {

// Kernels compiled for one instruction set; cpu/perturb.h and cpu/saliency.h describe them.
struct Variant {
  const char* name;
  bool (*runs_here)();
  ScratchSizes (*scratch_sizes)(const RunTable&);
  void (*perturb_portions)(const RunTable&, Portions&, const ScratchSizes&, float*);
  void (*draw_words)(const Stream&, int, uint32_t, int64_t, int64_t, int32_t*);
  void (*channel_saliency)(const ActivationGradByOffsets&, float*, int64_t, int64_t);
  double (*sum_of_squares)(const NormPiece&, double*);
};

// The fastest variant that runs here, or the one that TIP_KERNELS_CPU names; raises if that cannot run.
const Variant& variant();

}  // namespace tip
