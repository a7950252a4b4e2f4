// Memory of one thread for tiles of any run of a call. Bounded by the largest kernel, below 256 KiB for 31x31.
#pragma once

#include <cstdlib>

#include "cpu/simd.h"
#include "cpu/work.h"

TIP_BEGIN_NAMESPACE

struct Scratch {
  F* normals;   // [words of a unit with several groups]
  F* columns;   // [values of a lane], a multiple of kLanes
  float* rows;  // [kLanes][values of a lane], and kLanes more
  double* unit; // [2][taps], for arithmetic by unit in float or double

  explicit Scratch(const Work& work) {
    int64_t words = kGroup, values = kGroup, taps = 1;
    for (int64_t r = 0; r < work.run_count; ++r) {
      const Run& run = work.runs[r];
      if (run.noise == Noise::none) continue;
      words = larger(words, run.packing.groups * kGroup);
      values = larger(values, run.packing.units * run.tensor->taps);
      taps = larger(taps, run.tensor->taps);
    }
    const int64_t columns_size = (values + kLanes - 1) / kLanes * kLanes;
    const int64_t floats = (words + columns_size) * kLanes + (columns_size + 1) * kLanes + 4 * taps;
    memory_ = static_cast<float*>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64));
    normals = reinterpret_cast<F*>(memory_);
    columns = normals + words;
    rows = reinterpret_cast<float*>(columns + columns_size);
    unit = reinterpret_cast<double*>(rows + (columns_size + 1) * kLanes);
  }
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

 private:
  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
  float* memory_;
};

TIP_END_NAMESPACE
