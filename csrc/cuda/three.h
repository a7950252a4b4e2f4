// 3x3 kernels with additive noise in all bins but DC, TIP's common case: two kernels a thread from 16 words.
//
// Gradients that lie densely pass through shared memory, a warp at a time, in 16-byte accesses; those whose kernels lie
// interleaved (channels_last) are read and written two kernels at a time.
#pragma once

#include "core/basis3x3.h"
#include "cuda/element.h"
#include "cuda/select.h"

TIP_BEGIN_NAMESPACE

constexpr int kLaneElements = 18;  // two kernels
constexpr int kWarp = 32;
constexpr int kWarpSlots = 2 * kWarp;
constexpr int kWarpElements = kWarp * kLaneElements;

// The tile as float, and a byte for each slot.
TIP_HD int64_t three_shared_bytes(Path path) {
  return path == Path::dense3x3 ? kThreads * (kLaneElements * 4 + 2) : 0;
}

// What a thread keeps of a round: two kernels.
struct Lane {
  bool busy;     // some kernel of the warp is worked on
  bool whole;    // all are, they lie densely and at an aligned address
  Mode mode[2];  // of the thread's kernels
  float noise[kLaneElements];

  TIP_HD bool is_silent() const { return mode[0] != Mode::selected && mode[1] != Mode::selected; }
};

// In each round a warp works on kWarpSlots successive kernels. The axes of such tensors are rows and taps.
class ThreeKernel {
 public:
  TIP_HD ThreeKernel(const Call& call, const Entry& entry, const Axis* axes, const Shared& shared, char* memory)
      : call_(call), entry_(entry), axes_(axes), shared_(shared), memory_(memory) {}

  TIP_HD bool is_dense() const { return entry_.path == Path::dense3x3; }
  TIP_HD int rounds() const { return (entry_.tile_lanes + kThreads - 1) / kThreads; }
  TIP_HD int lane_of(int thread, int round) const { return round * kThreads + thread; }
  TIP_HD int first_slot(int thread, int round) const { return 2 * lane_of(thread / kWarp * kWarp, round); }

  TIP_HD void prepare(int thread, int round, Lane& lane) const {
    const Tile& tile = shared_.tile;
    const int first = first_slot(thread, round), last = first + kWarpSlots - 1;
    const bool inside = first >= tile.begin && last < tile.end;
    const int row = inside ? place_of(entry_, tile, first).row : 0;
    if (inside && place_of(entry_, tile, last).row == row) {
      lane.mode[0] = lane.mode[1] = shared_.mode[row];
      lane.busy = lane.mode[0] != Mode::untouched;
      lane.whole = is_dense() && reinterpret_cast<uintptr_t>(gradient_of(first)) % 16 == 0;
      if (lane.whole) return;
    } else {
      TIP_UNROLL
      for (int i = 0; i < 2; ++i)
        lane.mode[i] = mode_of_slot(entry_, call_, shared_, 2 * lane_of(thread, round) + i);
      lane.busy = last >= tile.begin && first < tile.end;
      lane.whole = false;
    }
    if (is_dense()) modes()[2 * thread] = lane.mode[0], modes()[2 * thread + 1] = lane.mode[1];
  }

  // Starts to read dense gradients. The modes of the warp are there.
  TIP_HD void load(int thread, int round, const Lane& lane) const { copy_dense<true>(thread, round, lane); }

  // What the normals of `take` have to be multiplied with.
  TIP_HD float unit() const { return call_.std[entry_.id] * kGain3x3; }

  TIP_HD void take(const float z[kGroup], Lane& lane) const {
    TIP_UNROLL
    for (int i = 0; i < 2; ++i) synthesize_3x3(z + 8 * i, lane.noise + 9 * i);
    // Of two channels that meet in this lane one may be left alone.
    if (lane.mode[0] == lane.mode[1]) return;
    TIP_UNROLL
    for (int i = 0; i < kLaneElements; ++i)
      if (lane.mode[i / 9] != Mode::selected) lane.noise[i] = 0.0f;
  }

  TIP_HD void take_nothing(Lane& lane) const {
    TIP_UNROLL
    for (int i = 0; i < kLaneElements; ++i) lane.noise[i] = 0.0f;
  }

  // Adds the noise, in shared memory to dense gradients, else for good.
  TIP_HD void add(int thread, int round, const Lane& lane) const {
    const float scale = call_.grad_scale ? *call_.grad_scale : 1.0f;
    if (is_dense()) {
      with_small_type(entry_.dtype, [&](auto* type) { add_dense(type, thread, lane, scale); });
    } else if (lane.mode[0] != Mode::untouched) {  // kernels of a pair are in one row
      const Place place = place_of(entry_, shared_.tile, 2 * lane_of(thread, round));
      const int64_t offset = (shared_.tile.row + place.row) * axes_[0].stride + place.unit;
      with_small_type(entry_.dtype, [&](auto* type) { add_pairs(type, offset, lane, scale); });
    }
  }

  // Writes what `load` has read.
  TIP_HD void store(int thread, int round, const Lane& lane) const { copy_dense<false>(thread, round, lane); }

 private:
  // Dense kernels, through shared memory.

  TIP_HD Mode* modes() const { return reinterpret_cast<Mode*>(memory_ + kThreads * kLaneElements * 4); }

  TIP_HD char* gradient_of(int slot) const {
    return global_pointer(shared_.tile.data) + static_cast<int64_t>(slot) * shared_.tile.slot_bytes;
  }

  // Copies a warp's kernels to shared memory, or back.
  template <bool kLoad>
  TIP_HD void copy_dense(int thread, int round, const Lane& lane) const {
    if (shared_.tile.slot_bytes == 9 * sizeof(float)) {
      copy_kernels<kLoad, uint32_t>(thread, round, lane);
    } else {
      copy_kernels<kLoad, uint16_t>(thread, round, lane);
    }
  }

  template <bool kLoad, class Bits>
  TIP_HD void copy_kernels(int thread, int round, const Lane& lane) const {
    constexpr int kBytes = kWarpElements * sizeof(Bits), kStep = kWarp * 16;
    char* gradient = gradient_of(first_slot(thread, round));
    char* tile = memory_ + thread / kWarp * kBytes;
    if (lane.whole) {
      const int own = thread % kWarp * 16;
      gradient += own, tile += own;
      TIP_UNROLL
      for (int i = 0; i < kBytes; i += kStep)
        if (i + kStep <= kBytes || own < kBytes - i)
          kLoad ? start_copy(tile + i, gradient + i) : copy16(gradient + i, tile + i);
      return;
    }
    Bits* to = reinterpret_cast<Bits*>(kLoad ? tile : gradient);
    const Bits* from = reinterpret_cast<const Bits*>(kLoad ? gradient : tile);
    TIP_ROLLED
    for (int i = thread % kWarp; i < kWarpElements; i += kWarp)
      if (modes()[thread / kWarp * kWarpSlots + i / 9] != Mode::untouched) to[i] = from[i];
  }

  template <class T>
  TIP_HD void add_dense(T*, int thread, const Lane& lane, float scale) const {
    T* own = reinterpret_cast<T*>(memory_) + kLaneElements * thread;
    TIP_UNROLL
    for (int i = 0; i < kLaneElements; i += 2) {
      const Pair x = load_pair(own + i);
      store_pair(own + i, {x.first * scale + lane.noise[i], x.second * scale + lane.noise[i + 1]});
    }
  }

  // Kernels that lie interleaved, two by two.

  template <class T>
  TIP_HD void add_pairs(T*, int64_t offset, const Lane& lane, float scale) const {
    T* data = reinterpret_cast<T*>(entry_.data) + offset;
    const int64_t stride = axes_[1].stride;
    Pair x[9];
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap) x[tap] = load_pair(data + tap * stride);
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap)
      store_pair(data + tap * stride,
                 {x[tap].first * scale + lane.noise[tap], x[tap].second * scale + lane.noise[9 + tap]});
  }

  const Call& call_;
  const Entry& entry_;
  const Axis* axes_;
  const Shared& shared_;
  char* memory_;
};

TIP_END_NAMESPACE
