// Memory of one thread for tiles of any run of a call. Bounded by the largest kernel, below 256 KiB for 31x31.
#pragma once

#include <cstdlib>

#include "cpu/simd.h"
#include "cpu/work.h"

TIP_BEGIN_NAMESPACE

constexpr int kMostLanes = 8 * kLanes;

// Lanes of a tile: as many vectors as leave their rows in the first-level cache, one at least.
inline int64_t lanes_of_tile(const Run& run) {
  constexpr int64_t kFloatsOfRows = 4096;
  const int64_t lanes = kFloatsOfRows / (run.packing.units * run.tensor->taps) / kLanes * kLanes;
  return lanes > kMostLanes ? kMostLanes : lanes > kLanes ? lanes : kLanes;
}

struct Scratch {
  F* normals;    // [words of a unit with several groups]
  F* columns;    // [values of a lane], a multiple of kLanes
  float* rows;   // [lanes of a tile][values of a lane], and kLanes more
  double* unit;  // [2][taps], for arithmetic by unit in float or double

  explicit Scratch(const Work& work) {
    int64_t words = 0, columns_size = 0, rows_size = 0, taps = 0;
    const TensorWork* last = nullptr;
    for (int64_t r = 0; r < work.run_count; ++r) {
      const Run& run = work.runs[r];
      if (run.noise == Noise::none || (run.tensor == last && r > 0 && run.noise == work.runs[r - 1].noise)) continue;
      last = run.tensor;
      const int64_t values = run.packing.units * run.tensor->taps;
      words = larger(words, run.packing.groups * kGroup);
      columns_size = larger(columns_size, (values + kLanes - 1) / kLanes * kLanes);
      rows_size = larger(rows_size, (lanes_of_tile(run) * values + kLanes + 15) / 16 * 16);
      taps = larger(taps, run.tensor->taps);
    }
    const int64_t floats = (words + columns_size) * kLanes + rows_size + 4 * taps;
    memory_ = static_cast<float*>(std::aligned_alloc(64, (floats * sizeof(float) + 127) / 64 * 64));
    normals = reinterpret_cast<F*>(memory_);
    columns = normals + words;
    rows = reinterpret_cast<float*>(columns + columns_size);
    unit = reinterpret_cast<double*>(rows + rows_size);
  }
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

 private:
  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
  float* memory_;
};

TIP_END_NAMESPACE
