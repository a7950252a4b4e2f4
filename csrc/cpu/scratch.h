// Memory of one thread for tiles of any run of a call. Bounded by the largest kernel, below 400 KiB for 31x31. The op
// provides it for all threads before it takes a step, so that a lack of memory changes nothing.
#pragma once

#include "cpu/simd.h"
#include "cpu/perturb.h"

TIP_BEGIN_NAMESPACE

constexpr int kMostLanes = 8 * kLanes;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Lanes of a tile: as many vectors as leave their rows in the first-level cache, one at least.
inline int64_t lanes_of_tile(const Run& run) {
  constexpr int64_t kBytesOfRows = 16384;
  const int64_t bytes = run.packing.units * run.tensor->taps * (run.tensor->dtype == DType::f64 ? 8 : 4);
  return larger(kLanes, smaller(kMostLanes, kBytesOfRows / bytes / kLanes * kLanes));
}

inline ScratchSizes sizes_of_scratch(const RunTable& table) {
  ScratchSizes sizes = {};
  const RunTensor* last = nullptr;
  for (int64_t r = 0; r < table.run_count; ++r) {
    const Run& run = table.runs[r];
    if (run.noise == Noise::none || (run.tensor == last && r > 0 && run.noise == table.runs[r - 1].noise)) continue;
    last = run.tensor;
    const bool wide = run.tensor->dtype == DType::f64, replaces = table.keep != 1.0;
    const int64_t normals = run.packing.groups * kGroup * kLanes, values = run.packing.units * run.tensor->taps;
    const int64_t columns = (values + kLanes - 1) / kLanes * kLanes * kLanes;
    sizes.normals = larger(sizes.normals, normals);
    sizes.coefficients = larger(sizes.coefficients, wide ? normals : 0);
    sizes.columns = larger(sizes.columns, columns);
    sizes.gradients = larger(sizes.gradients, replaces ? columns : 0);
    sizes.rows = larger(sizes.rows, (wide ? 2 : 1) * (lanes_of_tile(run) * values + kLanes + 15) / 16 * 16);
  }
  return sizes;
}

// Each of vectors of float or double, as the run has it; the slices of a vector of normals take turns.
struct Scratch {
  F* normals;           // [words of a lane]
  float* coefficients;  // [words of a lane], for doubles
  float* columns;       // [values of a lane], a multiple of kLanes: what is added
  float* gradients;     // the same: what was read, if `keep` is not 1
  float* rows;          // [lanes of a tile][values of a lane], and kLanes more

  Scratch(const ScratchSizes& sizes, float* memory)
      : normals(reinterpret_cast<F*>(memory)),
        coefficients(memory + sizes.normals),
        columns(coefficients + sizes.coefficients),
        gradients(columns + sizes.columns),
        rows(gradients + sizes.gradients) {}
};

TIP_END_NAMESPACE
