// What the op's arguments come down to: runs of units that lie evenly in memory and get one kind of noise.
//
// Plain data, because it is shared by code compiled once and code compiled once per instruction set.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace tip {

enum class Noise {
  none,   // grad_scale only
  band,   // std on the high band: d normals a unit
  full,   // std on the high band, floor_std on the rest: K normals a unit
  white,  // floor_std on every tap: K normals a unit
};

// The frequency basis of one kernel size: [taps, taps] row-major, masked columns first.
struct Basis {
  int64_t taps;
  int64_t high_dim;
  const double* exact;
  const float* rounded;
  bool all_but_dc_3x3;  // see core/basis3x3.h
};

// What all runs of one tensor share. A unit is a kernel or, without a high band, one element.
struct TensorWork {
  DType dtype;
  uint32_t id;
  const Basis* basis;          // null without a high band
  int64_t taps;                // of a unit
  const int64_t* tap_offsets;  // elements from the unit's first tap
  bool taps_dense;             // tap_offsets[t] == t
  float std, floor_std;
};

// How a unit's words lie in groups of 16: several units share a group, or a unit has several groups of its own.
// A lane is what a vector lane works on: the smallest number of whole units in whole groups.
struct Packing {
  int64_t units;   // of a lane
  int64_t groups;  // of a lane
};

struct Run {
  const TensorWork* tensor;
  Noise noise;
  Packing packing;
  char* data;           // the first unit
  int64_t unit_stride;  // elements
  int64_t first;        // global index of the first unit
  int64_t units;
  int64_t end;          // groups of this and all earlier runs together: how threads share the work

  // Normals that each unit uses.
  TIP_HD int64_t used() const { return noise == Noise::band ? tensor->basis->high_dim : tensor->taps; }
  TIP_HD int64_t first_lane() const { return first / packing.units; }
  TIP_HD int64_t lanes() const { return (first + units - 1) / packing.units - first_lane() + 1; }
};

struct Work {
  uint32_t key[8];
  uint64_t step;
  int rounds;
  float grad_scale;
  float keep;
  const Run* runs;
  int64_t run_count;
};

}  // namespace tip
