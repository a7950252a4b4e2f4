// Memory of one thread for tiles of any run of a call. Bounded by the largest kernel, below 256 KiB for 31x31. The op
// provides it for all threads before it takes a step, so that a lack of memory changes nothing.
#pragma once

#include "cpu/simd.h"
#include "cpu/perturb.h"

TIP_BEGIN_NAMESPACE

constexpr int kMostLanes = 8 * kLanes;

// Lanes of a tile: as many vectors as leave their rows in the first-level cache, one at least.
inline int64_t lanes_of_tile(const Run& run) {
  constexpr int64_t kFloatsOfRows = 4096;
  const int64_t lanes = kFloatsOfRows / (run.packing.units * run.tensor->taps) / kLanes * kLanes;
  return lanes > kMostLanes ? kMostLanes : lanes > kLanes ? lanes : kLanes;
}

inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

inline ScratchSizes sizes_of_scratch(const RunTable& table) {
  ScratchSizes sizes = {};
  const RunTensor* last = nullptr;
  for (int64_t r = 0; r < table.run_count; ++r) {
    const Run& run = table.runs[r];
    if (run.noise == Noise::none || (run.tensor == last && r > 0 && run.noise == table.runs[r - 1].noise)) continue;
    last = run.tensor;
    const int64_t values = run.packing.units * run.tensor->taps;
    sizes.normals = larger(sizes.normals, run.packing.groups * kGroup * kLanes);
    sizes.columns = larger(sizes.columns, (values + kLanes - 1) / kLanes * kLanes * kLanes);
    sizes.rows = larger(sizes.rows, (lanes_of_tile(run) * values + kLanes + 15) / 16 * 16);
    sizes.unit = larger(sizes.unit, 4 * run.tensor->taps);
  }
  return sizes;
}

struct Scratch {
  F* normals;    // [words of a unit with several groups]
  F* columns;    // [values of a lane], a multiple of kLanes
  float* rows;   // [lanes of a tile][values of a lane], and kLanes more
  double* unit;  // [2][taps], for arithmetic by unit in float or double

  Scratch(const ScratchSizes& sizes, float* memory)
      : normals(reinterpret_cast<F*>(memory)),
        columns(reinterpret_cast<F*>(memory + sizes.normals)),
        rows(memory + sizes.normals + sizes.columns),
        unit(reinterpret_cast<double*>(rows + sizes.rows)) {}
};

TIP_END_NAMESPACE
