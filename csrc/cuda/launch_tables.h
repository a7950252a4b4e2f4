// The launches of a call: as many tensors as a table has room for, and as many blocks as a launch can take. Host code
// that leaves launching to a launcher: CUDA's in perturb.cu, or a loop over blocks in tests/cuda_on_host.cpp.
//
// launcher(table, blocks, shared_bytes) runs perturb_tile for tiles table.header.first_tile + 0 .. blocks - 1;
// launcher.most_blocks() is what one launch can take.
#pragma once

#include <algorithm>

#include "cuda/plan.h"

namespace tip {

inline TableHeader header_of(const Inputs& inputs) {
  return {inputs.state, inputs.std, inputs.floor_std, inputs.grad_scale, inputs.keep, true, false, 0};
}

// Fills a table from tensors [begin, ...); returns the first one that did not fit.
template <class T>
size_t fill_table(const std::vector<PlannedTensor>& tensors, size_t begin, T& table) {
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

// Launches all tiles of a table, or one block without any. Only the first launch of a call takes its step.
template <class T, class Launcher>
void launch_table(T& table, bool takes_step, int64_t shared_bytes, Launcher& launcher) {
  const bool waits = table.header.waits;
  for (int64_t done = 0; done == 0 || done < table.tiles;) {
    const int64_t blocks = std::clamp<int64_t>(table.tiles - done, 1, launcher.most_blocks());
    table.header.first_tile = done;
    table.header.takes_step = takes_step && done == 0;
    table.header.waits = waits && table.header.takes_step;
    done += blocks;
    launcher(table, blocks, shared_bytes);
  }
}

// Launches the tensors from `begin` on that fit into a table, or none if that leaves some and `all` is asked for;
// returns the first one that is left.
template <class T, class Launcher>
size_t launch_some(const TableHeader& header, const std::vector<PlannedTensor>& tensors, size_t begin, bool all,
                   Launcher& launcher) {
  T table;
  table.header = header;
  const size_t end = fill_table(tensors, begin, table);
  if (all && end < tensors.size()) return begin;
  int64_t shared_bytes = 0;
  for (size_t i = begin; i < end; ++i) shared_bytes = std::max(shared_bytes, tensors[i].shared_bytes);
  launch_table(table, begin == 0, shared_bytes, launcher);
  return end;
}

// Launches all tensors, in one small table if they fit, which launches faster.
template <class Small, class Large, class Launcher>
void launch_tables(const TableHeader& header, const std::vector<PlannedTensor>& tensors, Launcher& launcher) {
  if (launch_some<Small>(header, tensors, 0, true, launcher) == tensors.size()) return;
  for (size_t begin = 0; begin < tensors.size();) begin = launch_some<Large>(header, tensors, begin, false, launcher);
}

}  // namespace tip
