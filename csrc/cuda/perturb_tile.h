// A block's work, from its tile to the last store.
#pragma once

#include "cuda/any_kernel.h"
#include "cuda/elements.h"
#include "cuda/kernel3x3.h"
#include "cuda/ticket.h"

TIP_BEGIN_NAMESPACE

// Finds the tile, reads the state and clears the ranks, in three warps at once.
template <class T>
TIP_HD void begin(const T& table, int64_t index, Shared& shared, int thread) {
  const int64_t* state = table.header.state;
  Source& source = shared.source;
  if (thread == 0 && index < table.tiles) shared.tile = locate(table, index);
  if (thread >= 32 && thread < 40) source.stream.key[thread - 32] = key_word(state, thread - 32);
  if (thread == 40) source.stream.step = step_of(table.header);
  if (thread == 42 || thread == 43) start_column(state, step_of(table.header), thread - 40, source.column[thread - 42]);
  if (thread >= 64 && thread < 64 + kRowsPerTile) shared.rank[thread - 64] = 0;
}

// Pass by pass: every thread of a warp draws noise while its gradients arrive, adds it, and the warp writes them.
template <int kGenerator, class Kernel, class Block>
TIP_HD void perturb_lanes(const Block& block, const TableHeader& header, const Entry& entry, const Axis* axes,
                          const Shared& shared, char* memory) {
  const Kernel kernel(header, entry, axes, shared, memory);
  const int passes = kernel.passes();
  typename Block::template Local<typename Kernel::Lane> lanes;
  TIP_ROLLED
  for (int pass = 0; pass < passes; ++pass) {
    block.each([&](int thread) { kernel.prepare(thread, pass, lanes[thread]); });
    if (Kernel::kPreparesShared) block.sync_warp();
    block.each([&](int thread) {
      if (!lanes[thread].busy) return;
      kernel.load(thread, pass, lanes[thread]);
      kernel.template draw_noise<kGenerator>(shared.source, thread, pass, lanes[thread]);
      wait_for_copies();
    });
    block.sync_warp();
    block.each([&](int thread) {
      if (lanes[thread].busy) kernel.add(thread, pass, lanes[thread]);
    });
    block.sync_warp();
    block.each([&](int thread) {
      if (lanes[thread].busy) kernel.store(thread, pass, lanes[thread]);
    });
    block.sync_warp();
  }
}

template <int kGenerator, class Block>
TIP_HD void perturb_any(const Block& block, const TableHeader& header, const Entry& entry, const Axis* axes,
                        const Shared& shared, char* memory) {
  const AnyKernel kernel(header, entry, axes, shared, memory);
  block.each([&](int thread) { kernel.prepare(thread); });
  block.sync();
  block.each([&](int thread) {
    for (int group = thread; group < entry.tile_lanes * entry.lane_groups; group += kThreads) {
      if (kernel.is_silent(group)) continue;
      float z[kGroup];
      draw<kGenerator>(shared.source, entry.id, shared.tile.lane * entry.lane_groups + group, 1.0f, z);
      kernel.take(group, z);
    }
  });
  block.sync();
  if (kernel.replaces()) {
    block.each([&](int thread) { kernel.replace(thread); });
    block.sync();
  }
  block.each([&](int thread) { kernel.apply(thread); });
}

// `has_read(step)` is called by one thread when all of the block have read the state.
template <int kGenerator, class Block, class T, class HasRead>
TIP_HD void perturb_tile(const Block& block, const T& table, int64_t index, Shared& shared, char* memory,
                         HasRead has_read) {
  block.each([&](int thread) { begin(table, index, shared, thread); });
  block.sync();
  block.each([&](int thread) {
    if (thread == 0) has_read(shared.source.stream.step);
  });
  if (index >= table.tiles || shared.tile.rows == 0) return;
  const TableHeader& header = table.header;
  const Entry& entry = table.entry[shared.tile.entry];
  const Axis* axes = table.axis + entry.first_axis;
  if (entry.scores) {
    block.each([&](int thread) { count_ranks(entry, shared, thread); });
    block.sync();
  }
  if (header.waits) wait_for_last_launch();
  if (entry.basis) {
    const auto is_touched = [&](int row) { return find_noise(entry, header, shared, row); };
    if (!block.any(is_touched)) return;
  }

  if (entry.path == Path::any) {
    perturb_any<kGenerator>(block, header, entry, axes, shared, memory);
  } else if (entry.path == Path::elements) {
    perturb_lanes<kGenerator, Elements>(block, header, entry, axes, shared, memory);
  } else if (header.floor_std) {
    perturb_lanes<kGenerator, Floor3x3>(block, header, entry, axes, shared, memory);
  } else {
    perturb_lanes<kGenerator, Band3x3>(block, header, entry, axes, shared, memory);
  }
}

TIP_END_NAMESPACE
