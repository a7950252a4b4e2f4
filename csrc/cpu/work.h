// What the op's arguments come down to: runs of units that lie evenly in memory and get one kind of noise.
//
// What code compiled once per instruction set calls here is always inlined: it must not be merged by the linker.
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
  float grid;  // the step of core/grid.h, 0 without a floor
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
  int64_t end;          // groups of this and all earlier runs together

  // Whether its units follow one another without a gap.
  TIP_HD bool contiguous() const { return tensor->taps_dense && unit_stride == tensor->taps; }
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
  double keep;
  const Run* runs;
  int64_t run_count;

  TIP_HD int64_t groups() const { return run_count > 0 ? runs[run_count - 1].end : 0; }
};

// Floats of the parts of cpu/scratch.h, in this order.
struct ScratchSizes {
  int64_t normals, columns, rows, unit;

  int64_t floats() const { return normals + columns + rows + unit; }
};

// What is left of a work's groups. Threads take portions until there are none, because cores differ in speed.
class Portions {
 public:
  static constexpr int64_t kGroups = 2048;  // of a portion: some 50 microseconds, many for a model

  explicit Portions(const Work& work) : groups_(work.groups()) {}

  int64_t count() const { return (groups_ + kGroups - 1) / kGroups; }

  // Takes the groups [begin, end); false when none is left.
  TIP_HD bool take(int64_t& begin, int64_t& end) {
    begin = __atomic_fetch_add(&next_, kGroups, __ATOMIC_RELAXED);
    end = begin + kGroups < groups_ ? begin + kGroups : groups_;
    return begin < groups_;
  }

 private:
  int64_t groups_;
  int64_t next_ = 0;
};

}  // namespace tip
