// What a call comes down to on the CPU: runs of units that lie evenly in memory and get one kind of noise.
//
// What code compiled once per instruction set calls here is always inlined: it must not be merged by the linker.
#pragma once

#include <cstdint>

#include "core/address.h"
#include "core/dtype.h"
#include "core/noise.h"

namespace tip {

// The columns of a Fourier basis of 3x3 kernels in the order of core/basis3x3.h, DC last.
struct Order3x3 {
  bool known;  // whether it is such a basis
  uint8_t column[9];
};

// The frequency basis of one kernel size: [taps, taps] row-major, masked columns first.
struct Basis {
  int64_t taps;
  int64_t high_dim;
  const double* exact;
  const float* rounded;
  Order3x3 order_3x3;
  bool all_but_dc_3x3;  // whether its columns are in that order, DC's alone behind the high band
};

// Of a tensor with amplitudes what each normal is multiplied by, [taps]; null without.
struct CoefficientAmounts {
  const double* exact;
  const float* rounded;
};

// What all runs of one tensor share.
struct RunTensor {
  DType dtype;
  uint32_t id;
  const Basis* basis;          // null without a high band
  int64_t taps;                // of a unit
  int64_t used;                // normals of a unit that gets noise
  const int64_t* tap_offsets;  // elements from the unit's first tap
  bool taps_dense;             // tap_offsets[t] == t
  float std, floor_std;
  CoefficientAmounts of_selected, of_others;
  float grid;  // the step of core/grid.h, 0 without a floor
};

struct Run {
  const RunTensor* tensor;
  Noise noise;
  Packing packing;
  char* data;           // the first unit
  int64_t unit_stride;  // elements
  int64_t first;        // index of the first unit in the whole tensor
  int64_t units;
  int64_t end;  // groups of this and all earlier runs together

  // Whether its units follow one another without a gap.
  TIP_HD bool contiguous() const { return tensor->taps_dense && unit_stride == tensor->taps; }
  TIP_HD int64_t first_lane() const { return first / packing.units; }
  TIP_HD int64_t lanes() const { return (first + units - 1) / packing.units - first_lane() + 1; }
};

// Whether units that get this noise are kernels of cpu/kernel3x3.h.
TIP_HD bool is_3x3(const RunTensor& tensor, Noise noise) {
  if (tensor.taps != 9 || noise == Noise::none) return false;
  if (noise == Noise::colored) return tensor.basis->order_3x3.known;
  return noise == Noise::white || tensor.basis->all_but_dc_3x3;
}

// The runs of a call, and what all of them share.
struct RunTable {
  Stream stream;
  int generator;
  float grad_scale;
  double keep;
  const Run* runs;
  int64_t run_count;

  TIP_HD int64_t groups() const { return run_count > 0 ? runs[run_count - 1].end : 0; }
};

}  // namespace tip
