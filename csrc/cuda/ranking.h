// Whether a call ranks its channels before it perturbs, and the tables for that. Host code.
#pragma once

#include <algorithm>

#include "cuda/plan.h"
#include "cuda/rank_block.h"

namespace tip {

inline int64_t words_for(const Entry& entry) { return (entry.channels + 31) / 32; }

// 32-bit words of memory that ranking before takes; 0 if every block ranks the channels that it needs, which for small
// models is faster than a launch.
inline int64_t ranking_words(const std::vector<PlannedTensor>& tensors) {
  constexpr int64_t kWorthALaunch = 8'000'000;  // scores that are compared, some 15 instructions each
  int64_t compared = 0, words = 0;
  for (const PlannedTensor& tensor : tensors) {
    const Entry& entry = tensor.entry;
    if (!entry.scores) continue;
    const int64_t rows = 1 + entry.tile_lanes * entry.lane_units / entry.row_units;  // of a tile
    compared += std::min<int64_t>(tensor.tiles * rows, kWorthALaunch) * std::min(entry.channels, kWorthALaunch);
    words += words_for(entry);
  }
  return compared > kWorthALaunch ? words : 0;
}

// Has the tensors look into `memory` for their channels, which calls of launcher(table) fill: a block an entry.
template <class Launcher>
void rank_before(std::vector<PlannedTensor>& tensors, uint32_t* memory, Launcher launcher) {
  RankTable table;
  table.entries = 0;
  for (PlannedTensor& tensor : tensors) {
    Entry& entry = tensor.entry;
    if (!entry.scores) continue;
    table.entry[table.entries++] = {entry.scores, memory, entry.channels, entry.selected};
    entry.scores = nullptr;
    entry.chosen = memory;
    memory += words_for(entry);
    if (table.entries < RankTable::kEntries) continue;
    launcher(table);
    table.entries = 0;
  }
  if (table.entries > 0) launcher(table);
}

}  // namespace tip
