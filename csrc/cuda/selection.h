// Which noise a unit gets: channels are ranked here, inside the kernel.
#pragma once

#include "core/noise.h"
#include "core/rank.h"
#include "cuda/block.h"
#include "cuda/draw.h"
#include "cuda/rank_block.h"
#include "cuda/tile.h"

TIP_BEGIN_NAMESPACE

// What a block shares besides noise and gradients.
struct Shared {
  Source source;
  Tile tile;
  int rank[kRowsPerTile];     // how many channels outrank each of the tile's
  Noise noise[kRowsPerTile];  // of their rows, where there is a high band
};

// Counts the channels that outrank each row's; `shared.rank` starts at zero. For every thread of the block.
TIP_HD void count_ranks(const Entry& entry, Shared& shared, int thread) {
  const Tile& tile = shared.tile;
  TIP_ROLLED
  for (int row = 0; row < tile.rows; ++row) {
    const int64_t channel = entry.first_channel + tile.row + row;
    const uint32_t key = rank_key(entry.scores[channel]);
    int count = 0;
    for (int64_t other = thread; other < entry.channels; other += kThreads)
      count += outranks(rank_key(entry.scores[other]), other, key, channel);
    add_to_shared(&shared.rank[row], count);
  }
}

TIP_HD Noise noise_of(const TableHeader& header, bool selected) {
  return noise_of(selected, header.floor_std != nullptr, header.grad_scale != nullptr);
}

// Finds the noise of a row of kernels, from the ranks. Whether it is to be touched.
TIP_HD bool find_noise(const Entry& entry, const TableHeader& header, Shared& shared, int row) {
  if (row >= shared.tile.rows) return false;
  const bool selected = entry.scores   ? shared.rank[row] < entry.selected
                        : entry.chosen ? is_chosen(entry.chosen, entry.first_channel + shared.tile.row + row)
                                       : entry.selected > 0;
  shared.noise[row] = noise_of(header, selected);
  return shared.noise[row] != Noise::untouched;
}

TIP_HD Noise noise_of_slot(const Entry& entry, const TableHeader& header, const Shared& shared, int slot) {
  const Tile& tile = shared.tile;
  if (slot < tile.begin || slot >= tile.end) return Noise::untouched;
  if (!entry.basis) return noise_of(header, false);
  return shared.noise[row_unit_of(entry, tile, slot).row];
}

TIP_END_NAMESPACE
