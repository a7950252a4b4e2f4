// A block's work, from its tile to the last store.
#pragma once

#include "core/generate.h"
#include "core/normals.h"
#include "cuda/any.h"
#include "cuda/three.h"

TIP_BEGIN_NAMESPACE

// Word i of the state: eight of key, then the two of the step.
TIP_HD uint32_t state_word(const int64_t* state, int i) {
  return static_cast<uint32_t>(state[i / 2] >> (i % 2 * 32));
}

TIP_HD Stream read_stream(const int64_t* state) {
  Stream stream;
  TIP_UNROLL
  for (int i = 0; i < 8; ++i) stream.key[i] = state_word(state, i);
  stream.step = static_cast<uint64_t>(state[4]);
  return stream;
}

// Finds the tile, reads the state and clears the ranks, in three warps at once.
template <class T>
TIP_HD void begin(const T& table, int64_t index, Shared& shared, int thread) {
  if (thread == 0 && index < table.tiles) shared.tile = locate(table, index);
  if (thread >= 32 && thread < 40) shared.stream.key[thread - 32] = state_word(table.call.state, thread - 32);
  if (thread == 40) shared.stream.step = static_cast<uint64_t>(table.call.state[4]);
  if (thread >= 64 && thread < 64 + kRowsPerTile) shared.rank[thread - 64] = 0;
}

TIP_HD bool idle(const Entry& entry, const Call& call, const Shared& shared) {
  if (mode_of_other(call) != Mode::untouched) return false;
  for (int row = 0; row < shared.tile.rows; ++row)
    if (mode_of_row(entry, call, shared, row) != Mode::untouched) return false;
  return true;
}

// The normals of one group of words, times `scale`. Large: kernels hold this code once.
template <int kRounds>
TIP_HD void draw(const Stream& stream, uint32_t tensor, uint64_t group, float scale, float z[kGroup]) {
  uint32_t words[kGroup];
  generate<kRounds>(stream, counter(tensor, group), words);
  TIP_UNROLL
  for (int w = 0; w < kGroup; w += 2) box_muller<uint32_t, float>(words[w], words[w + 1], scale, z[w], z[w + 1]);
}

// `has_read(step)` is called by one thread when all of the block have read the state.
template <int kRounds, class Block, class T, class HasRead>
TIP_HD void perturb_tile(const Block& block, const T& table, int64_t index, Shared& shared, char* memory,
                         HasRead has_read) {
  block.each([&](int thread) { begin(table, index, shared, thread); });
  block.sync();
  block.each([&](int thread) {
    if (thread == 0) has_read(shared.stream.step);
  });
  if (index >= table.tiles || shared.tile.rows == 0) return;
  const Call& call = table.call;
  const Entry& entry = table.entry[shared.tile.entry];
  const Axis* axes = table.axis + entry.first_axis;
  if (entry.scores) {
    block.each([&](int thread) { count_ranks(entry, shared, thread); });
    block.sync();
  }
  if (idle(entry, call, shared)) return;

  const bool is_three = entry.path != Path::any;
  const ThreeKernel three(call, entry, axes, shared, memory);
  const AnyKernel any(call, entry, axes, shared, memory);
  typename Block::template Local<Lane> lanes;
  block.each([&](int thread) { is_three ? three.prepare(thread, lanes[thread]) : any.prepare(thread); });
  block.sync();
  block.each([&](int thread) {
    if (is_three) three.load(thread, lanes[thread]);
    const int groups = entry.tile_lanes * entry.lane_groups;
    const float scale = is_three ? three.unit() : 1.0f;
    for (int group = thread; group < groups; group += kThreads) {
      if (is_three ? lanes[thread].is_silent() : any.is_silent(group)) continue;
      float z[kGroup];
      draw<kRounds>(shared.stream, entry.id, shared.tile.lane * entry.lane_groups + group, scale, z);
      is_three ? three.take(z, lanes[thread]) : any.take(group, z);
    }
    wait_for_copies();
  });
  block.sync();
  if (is_three) {
    block.each([&](int thread) { three.add(thread, lanes[thread]); });
    if (!three.is_dense()) return;
    block.sync_warp();
    block.each([&](int thread) { three.store(thread); });
  } else {
    if (any.replaces()) {
      block.each([&](int thread) { any.replace(thread); });
      block.sync();
    }
    block.each([&](int thread) { any.apply(thread); });
  }
}

TIP_END_NAMESPACE
