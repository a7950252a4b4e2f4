// From descriptions of tensors to tables of a launch. Host code without torch or CUDA.
#pragma once

#include <vector>

#include "cuda/table.h"

namespace tip {

// A tensor of the op's list, with its arguments (tip_kernels/_ops.py).
struct TensorView {
  char* data;
  DType dtype;
  std::vector<int64_t> sizes, strides;  // [C, M, *kernel_size], or fewer dimensions
  const float* scores;
  int64_t score_count, score_stride, selected;
  int64_t id;
  const double* basis;  // null without a high band
  int64_t high_dim;
  int64_t first_channel, first_kernel, kernels_per_channel;
};

struct Options {
  bool floor, scaled, replaces;  // floor_std is given, grad_scale is given, keep is not 1
  int rounds;                    // lanes of a thread, where it can take several; 0 for as many as pay
};

struct PlannedTensor {
  Entry entry;
  std::vector<Axis> axes;
  int64_t tiles;
  int64_t shared_bytes;
};

// Appends a dimension outside the others, or lets the last one grow if it goes on where that one ends.
void append_axis(std::vector<Axis>& axes, Axis next);

// The tensors that have something to do.
std::vector<PlannedTensor> plan_tensors(const std::vector<TensorView>& tensors, Options options);

// Fills a table from tensors [begin, ...); returns the first one that did not fit.
template <int kBytes>
size_t fill_table(const std::vector<PlannedTensor>& tensors, size_t begin, Table<kBytes>& table) {
  table.entries = table.axes = 0;
  table.tiles = 0;
  size_t i = begin;
  for (; i < tensors.size() && table.entries < table.kEntries; ++i) {
    const PlannedTensor& tensor = tensors[i];
    const int axes = static_cast<int>(tensor.axes.size());
    if (table.axes + axes > table.kAxes) break;
    table.tiles += tensor.tiles;
    Entry& entry = table.entry[table.entries++] = tensor.entry;
    entry.first_axis = static_cast<int16_t>(table.axes);
    entry.tile_end = table.tiles;
    for (const Axis& axis : tensor.axes) table.axis[table.axes++] = axis;
  }
  return i;
}

}  // namespace tip
