// The selected channels of a tensor as bits, found by one block: for calls so large that ranking channels in every block
// again would take longer than a launch.
#pragma once

#include "core/rank.h"
#include "cuda/block.h"

TIP_BEGIN_NAMESPACE

// A tensor whose channels are ranked.
struct RankEntry {
  const float* scores;  // [channels]
  uint32_t* chosen;     // a bit for each channel
  int64_t channels, selected;
};

struct RankTable {
  static constexpr int kEntries = 120;
  int32_t entries;
  RankEntry entry[kEntries];
};
static_assert(sizeof(RankTable) <= 4096, "a table is a kernel's argument");

// Sums of all threads, in turns, so that one barrier separates a sum from the next.
struct RankShared {
  int sum[3];
};

template <class Block>
class Ranking {
 public:
  TIP_HD Ranking(const Block& block, const RankEntry& entry, RankShared& shared)
      : block_(block), entry_(entry), shared_(shared) {
    block.each([&](int thread) {
      if (thread < 3) shared_.sum[thread] = 0;
    });
    block.sync();
  }

  TIP_HD void run() {
    // The least key that is selected: bit by bit the greatest that as many channels reach as are wanted.
    uint32_t least = 0;
    TIP_ROLLED
    for (int bit = 31; bit >= 0; --bit) {
      const uint32_t next = least | 1u << bit;
      if (count([=](uint32_t key, int64_t) { return key >= next; }) >= entry_.selected) least = next;
    }
    // Of the channels with this very key the first ones: up to the last index that leaves room for one more.
    const int64_t wanted = entry_.selected - count([=](uint32_t key, int64_t) { return key > least; });
    int64_t last = 0;
    TIP_ROLLED
    for (int bit = 31; bit >= 0; --bit) {
      const int64_t next = last | int64_t{1} << bit;
      if (next >= entry_.channels) continue;
      if (count([=](uint32_t key, int64_t channel) { return key == least && channel < next; }) < wanted) last = next;
    }
    block_.each([&](int thread) { write(thread, least, last); });
  }

 private:
  // How many channels have a property.
  template <class F>
  TIP_HD int64_t count(F has) {
    const int here = turn_, next = (turn_ + 1) % 3;
    turn_ = next;
    block_.each([&](int thread) {
      int own = 0;
      TIP_ROLLED
      for (int64_t channel = thread; channel < entry_.channels; channel += kThreads)
        own += has(rank_key(entry_.scores[channel]), channel);
      add_to_shared(&shared_.sum[here], own);
      if (thread == 0) shared_.sum[next] = 0;
    });
    block_.sync();
    return shared_.sum[here];
  }

  TIP_HD void write(int thread, uint32_t least, int64_t last) const {
    TIP_ROLLED
    for (int64_t first = int64_t{32} * thread; first < entry_.channels; first += 32 * kThreads) {
      uint32_t bits = 0;
      TIP_ROLLED
      for (int i = 0; i < 32 && first + i < entry_.channels; ++i) {
        const uint32_t key = rank_key(entry_.scores[first + i]);
        bits |= static_cast<uint32_t>(key > least || (key == least && first + i <= last)) << i;
      }
      entry_.chosen[first / 32] = bits;
    }
  }

  const Block& block_;
  const RankEntry& entry_;
  RankShared& shared_;
  int turn_ = 0;
};

// Whether a channel is among the chosen ones.
TIP_HD bool is_chosen(const uint32_t* chosen, int64_t channel) { return chosen[channel / 32] >> channel % 32 & 1; }

TIP_END_NAMESPACE
