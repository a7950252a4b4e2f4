// 3x3 kernels with additive noise in all bins but DC, TIP's common case: two kernels a thread from 16 words.
//
// Gradients that lie densely pass through shared memory, a warp at a time, in 16-byte accesses; those whose kernels lie
// interleaved (channels_last) are read and written two kernels at a time.
#pragma once

#include "core/basis3x3.h"
#include "cuda/element_pairs.h"
#include "cuda/selection.h"

TIP_BEGIN_NAMESPACE

constexpr int kLaneElements = 18;  // two kernels
constexpr int kWarp = 32;
constexpr int kWarpSlots = 2 * kWarp;
constexpr int kWarpElements = kWarp * kLaneElements;

// The tile as float, and a byte for each slot.
TIP_HD int64_t shared_bytes_3x3(Path path) {
  return path == Path::dense3x3 ? kThreads * (kLaneElements * 4 + 2) : 0;
}

// What a thread keeps of a pass: two kernels.
struct Lane {
  bool busy;       // some kernel of the warp is worked on
  bool whole;      // all are, they lie densely and at an aligned address
  Noise noise[2];  // of the thread's kernels
  float added[kLaneElements];

  TIP_HD bool is_silent() const { return noise[0] != Noise::band && noise[1] != Noise::band; }
};

// In each pass a warp works on kWarpSlots successive kernels. The axes of such tensors are rows and taps.
class Kernel3x3 {
 public:
  TIP_HD Kernel3x3(const TableHeader& header, const Entry& entry, const Axis* axes, const Shared& shared, char* memory)
      : header_(header), entry_(entry), axes_(axes), shared_(shared), memory_(memory) {}

  TIP_HD bool is_dense() const { return entry_.path == Path::dense3x3; }
  TIP_HD int passes() const { return (entry_.tile_lanes + kThreads - 1) / kThreads; }
  TIP_HD int lane_of(int thread, int pass) const { return pass * kThreads + thread; }
  TIP_HD int first_slot(int thread, int pass) const { return 2 * lane_of(thread / kWarp * kWarp, pass); }

  TIP_HD void prepare(int thread, int pass, Lane& lane) const {
    const Tile& tile = shared_.tile;
    const int first = first_slot(thread, pass), last = first + kWarpSlots - 1;
    const bool inside = first >= tile.begin && last < tile.end;
    const int row = inside ? row_unit_of(entry_, tile, first).row : 0;
    if (inside && row_unit_of(entry_, tile, last).row == row) {
      lane.noise[0] = lane.noise[1] = shared_.noise[row];
      lane.busy = lane.noise[0] != Noise::untouched;
      lane.whole = is_dense() && reinterpret_cast<uintptr_t>(gradient_of(first)) % 16 == 0;
      if (lane.whole) return;
    } else {
      TIP_UNROLL
      for (int i = 0; i < 2; ++i)
        lane.noise[i] = noise_of_slot(entry_, header_, shared_, 2 * lane_of(thread, pass) + i);
      lane.busy = last >= tile.begin && first < tile.end;
      lane.whole = false;
    }
    if (is_dense()) noises()[2 * thread] = lane.noise[0], noises()[2 * thread + 1] = lane.noise[1];
  }

  // Starts to read dense gradients. The noises of the warp are there.
  TIP_HD void load(int thread, int pass, const Lane& lane) const { copy_dense<true>(thread, pass, lane); }

  // What the normals of `take` have to be multiplied with.
  TIP_HD float amplitude() const { return header_.std[entry_.id] * kGain3x3; }

  TIP_HD void take(const float z[kGroup], Lane& lane) const {
    TIP_UNROLL
    for (int i = 0; i < 2; ++i) synthesize_3x3(z + 8 * i, lane.added + 9 * i);
    // Of two channels that meet in this lane one may be left alone.
    if (lane.noise[0] == lane.noise[1]) return;
    TIP_UNROLL
    for (int i = 0; i < kLaneElements; ++i)
      if (lane.noise[i / 9] != Noise::band) lane.added[i] = 0.0f;
  }

  TIP_HD void take_nothing(Lane& lane) const {
    TIP_UNROLL
    for (int i = 0; i < kLaneElements; ++i) lane.added[i] = 0.0f;
  }

  // Adds the noise, in shared memory to dense gradients, else for good.
  TIP_HD void add(int thread, int pass, const Lane& lane) const {
    const float scale = header_.grad_scale ? *header_.grad_scale : 1.0f;
    if (is_dense()) {
      with_small_type(entry_.dtype, [&](auto* type) { add_dense(type, thread, lane, scale); });
    } else if (lane.noise[0] != Noise::untouched) {  // kernels of a pair are in one row
      const RowUnit at = row_unit_of(entry_, shared_.tile, 2 * lane_of(thread, pass));
      const int64_t offset = (shared_.tile.row + at.row) * axes_[0].stride + at.unit;
      with_small_type(entry_.dtype, [&](auto* type) { add_pairs(type, offset, lane, scale); });
    }
  }

  // Writes what `load` has read.
  TIP_HD void store(int thread, int pass, const Lane& lane) const { copy_dense<false>(thread, pass, lane); }

 private:
  // Dense kernels, through shared memory.

  TIP_HD Noise* noises() const { return reinterpret_cast<Noise*>(memory_ + kThreads * kLaneElements * 4); }

  TIP_HD char* gradient_of(int slot) const {
    return global_pointer(shared_.tile.data) + static_cast<int64_t>(slot) * shared_.tile.slot_bytes;
  }

  // Copies a warp's kernels to shared memory, or back.
  template <bool kLoad>
  TIP_HD void copy_dense(int thread, int pass, const Lane& lane) const {
    if (shared_.tile.slot_bytes == 9 * sizeof(float)) {
      copy_kernels<kLoad, uint32_t>(thread, pass, lane);
    } else {
      copy_kernels<kLoad, uint16_t>(thread, pass, lane);
    }
  }

  template <bool kLoad, class Bits>
  TIP_HD void copy_kernels(int thread, int pass, const Lane& lane) const {
    constexpr int kBytes = kWarpElements * sizeof(Bits), kStep = kWarp * 16;
    char* gradient = gradient_of(first_slot(thread, pass));
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
      if (noises()[thread / kWarp * kWarpSlots + i / 9] != Noise::untouched) to[i] = from[i];
  }

  template <class T>
  TIP_HD void add_dense(T*, int thread, const Lane& lane, float scale) const {
    T* own = reinterpret_cast<T*>(memory_) + kLaneElements * thread;
    TIP_UNROLL
    for (int i = 0; i < kLaneElements; i += 2) {
      const Pair x = load_pair(own + i);
      store_pair(own + i, {x.first * scale + lane.added[i], x.second * scale + lane.added[i + 1]});
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
                 {x[tap].first * scale + lane.added[tap], x[tap].second * scale + lane.added[9 + tap]});
  }

  const TableHeader& header_;
  const Entry& entry_;
  const Axis* axes_;
  const Shared& shared_;
  char* memory_;
};

TIP_END_NAMESPACE
