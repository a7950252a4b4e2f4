// A block's work, from its tile to the last store.
#pragma once

#include "cuda/any.h"
#include "cuda/three.h"

TIP_BEGIN_NAMESPACE

// The step of a call. Its first launch advances the state, so that later ones find it advanced.
TIP_HD uint64_t step_of(const Call& call) { return static_cast<uint64_t>(call.state[4]) - (call.ticket < 0 ? 1 : 0); }

// Finds the tile, reads the state and clears the ranks, in three warps at once.
template <class T>
TIP_HD void begin(const T& table, int64_t index, Shared& shared, int thread) {
  const int64_t* state = table.call.state;
  Source& source = shared.source;
  if (thread == 0 && index < table.tiles) shared.tile = locate(table, index);
  if (thread >= 32 && thread < 40) source.stream.key[thread - 32] = key_word(state, thread - 32);
  if (thread == 40) source.stream.step = step_of(table.call);
  if (thread == 42 || thread == 43) start_column(state, step_of(table.call), thread - 40, source.column[thread - 42]);
  if (thread >= 64 && thread < 64 + kRowsPerTile) shared.rank[thread - 64] = 0;
}

template <int kRounds, class Block>
TIP_HD void perturb_three(const Block& block, const Call& call, const Entry& entry, const Axis* axes,
                          const Shared& shared, char* memory) {
  const ThreeKernel kernel(call, entry, axes, shared, memory);
  const bool dense = kernel.is_dense();
  const int rounds = kernel.rounds();
  typename Block::template Local<Lane> lanes;
  TIP_ROLLED
  for (int round = 0; round < rounds; ++round) {
    block.each([&](int thread) { kernel.prepare(thread, round, lanes[thread]); });
    block.sync_warp();
    block.each([&](int thread) {
      Lane& lane = lanes[thread];
      if (!lane.busy) return;
      if (dense) kernel.load(thread, round, lane);
      if (lane.is_silent()) {
        kernel.take_nothing(lane);
      } else {
        float z[kGroup];
        draw<kRounds>(shared.source, entry.id, shared.tile.lane + kernel.lane_of(thread, round), kernel.unit(),
                      z);
        kernel.take(z, lane);
      }
      wait_for_copies();
    });
    block.sync_warp();
    block.each([&](int thread) {
      if (lanes[thread].busy) kernel.add(thread, round, lanes[thread]);
    });
    block.sync_warp();
    block.each([&](int thread) {
      if (dense && lanes[thread].busy) kernel.store(thread, round, lanes[thread]);
    });
    block.sync_warp();
  }
}

template <int kRounds, class Block>
TIP_HD void perturb_any(const Block& block, const Call& call, const Entry& entry, const Axis* axes,
                        const Shared& shared, char* memory) {
  const AnyKernel kernel(call, entry, axes, shared, memory);
  block.each([&](int thread) { kernel.prepare(thread); });
  block.sync();
  block.each([&](int thread) {
    for (int group = thread; group < entry.tile_lanes * entry.lane_groups; group += kThreads) {
      if (kernel.is_silent(group)) continue;
      float z[kGroup];
      draw<kRounds>(shared.source, entry.id, shared.tile.lane * entry.lane_groups + group, 1.0f, z);
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
template <int kRounds, class Block, class T, class HasRead>
TIP_HD void perturb_tile(const Block& block, const T& table, int64_t index, Shared& shared, char* memory,
                         HasRead has_read) {
  block.each([&](int thread) { begin(table, index, shared, thread); });
  block.sync();
  block.each([&](int thread) {
    if (thread == 0) has_read(shared.source.stream.step);
  });
  if (index >= table.tiles || shared.tile.rows == 0) return;
  const Call& call = table.call;
  const Entry& entry = table.entry[shared.tile.entry];
  const Axis* axes = table.axis + entry.first_axis;
  if (entry.scores) {
    block.each([&](int thread) { count_ranks(entry, shared, thread); });
    block.sync();
  }
  if (entry.basis) {
    const auto work = [&](int thread) { return find_mode(entry, call, shared, thread); };
    if (!block.any(work)) return;
  }

  if (entry.path == Path::any) {
    perturb_any<kRounds>(block, call, entry, axes, shared, memory);
  } else {
    perturb_three<kRounds>(block, call, entry, axes, shared, memory);
  }
}

TIP_END_NAMESPACE
