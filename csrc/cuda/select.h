// What happens to a unit: channels are ranked here, inside the kernel.
#pragma once

#include "core/rank.h"
#include "cuda/block.h"
#include "cuda/draw.h"
#include "cuda/tile.h"

TIP_BEGIN_NAMESPACE

enum class Mode : uint8_t {
  untouched,  // neither read nor written
  scaled,     // grad_scale only
  white,      // floor_std on every tap
  selected,   // std on the high band, floor_std on the rest
};

// What a block shares besides noise and gradients.
struct Shared {
  Source source;
  Tile tile;
  int rank[kRowsPerTile];   // how many channels outrank each of the tile's
  Mode mode[kRowsPerTile];  // of their rows, where there is a high band
};

// Counts the channels that outrank each row's; `shared.rank` starts at zero. For every thread of the block.
TIP_HD void count_ranks(const Entry& entry, Shared& shared, int thread) {
  const Tile& tile = shared.tile;
  TIP_ROLLED
  for (int row = 0; row < tile.rows; ++row) {
    const int64_t channel = entry.first_channel + tile.row + row;
    const uint32_t key = rank_key(entry.scores[channel * entry.score_stride]);
    int count = 0;
    for (int64_t other = thread; other < entry.channels; other += kThreads)
      count += outranks(rank_key(entry.scores[other * entry.score_stride]), other, key, channel);
    add_to_shared(&shared.rank[row], count);
  }
}

TIP_HD Mode mode_of_other(const Call& call) {
  return call.floor_std ? Mode::white : call.grad_scale ? Mode::scaled : Mode::untouched;
}

// Finds what happens to a row of kernels, from the ranks. Whether that is anything.
TIP_HD bool find_mode(const Entry& entry, const Call& call, Shared& shared, int row) {
  if (row >= shared.tile.rows) return false;
  const bool selected = entry.scores ? shared.rank[row] < entry.selected : entry.selected > 0;
  shared.mode[row] = selected ? Mode::selected : mode_of_other(call);
  return shared.mode[row] != Mode::untouched;
}

TIP_HD Mode mode_of_slot(const Entry& entry, const Call& call, const Shared& shared, int slot) {
  const Tile& tile = shared.tile;
  if (slot < tile.begin || slot >= tile.end) return Mode::untouched;
  if (!entry.basis) return mode_of_other(call);
  return shared.mode[place_of(entry, tile, slot).row];
}

TIP_END_NAMESPACE
