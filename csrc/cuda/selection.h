// Which noise a unit gets: channels are ranked here, inside the kernel.
#pragma once

#include "core/grid.h"
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

TIP_HD Noise noise_of(const TableHeader& header, const Entry& entry, bool selected) {
  return noise_of(selected, header.floor_std != nullptr, header.grad_scale != nullptr, entry.amplitudes != nullptr);
}

// Finds the noise of a row of kernels, from the ranks. Whether it is to be touched.
TIP_HD bool find_noise(const Entry& entry, const TableHeader& header, Shared& shared, int row) {
  if (row >= shared.tile.rows) return false;
  const bool selected = entry.scores   ? shared.rank[row] < entry.selected
                        : entry.chosen ? is_chosen(entry.chosen, entry.first_channel + shared.tile.row + row)
                                       : entry.selected > 0;
  shared.noise[row] = noise_of(header, entry, selected);
  return shared.noise[row] != Noise::untouched;
}

// Of the coefficients of selected channels' kernels, or of others'; null without.
TIP_HD const float* amplitudes_of(const Entry& entry, bool selected) {
  return entry.amplitudes && !selected ? entry.amplitudes + entry.taps : entry.amplitudes;
}

TIP_HD float grid_step(const Entry& entry, const TableHeader& header) {
  const float std = header.std[entry.id], floor = header.floor_std ? header.floor_std[entry.id] : 0.0f;
  if (!entry.basis) return grid_step(floor, 0.0f);
  return entry.amplitudes ? grid_step(floor, std, entry.amplitudes, entry.taps, entry.high_dim) : grid_step(floor, std);
}

TIP_HD Noise noise_of_slot(const Entry& entry, const TableHeader& header, const Shared& shared, int slot) {
  const Tile& tile = shared.tile;
  if (slot < tile.begin || slot >= tile.end) return Noise::untouched;
  if (!entry.basis) return noise_of(header, entry, false);
  return shared.noise[row_unit_of(entry, tile, slot).row];
}

TIP_END_NAMESPACE
