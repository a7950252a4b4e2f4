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

// What a thread keeps: two kernels.
struct Lane {
  Mode mode[2];
  float x[kLaneElements];  // the gradient, unless it passes through shared memory
  float noise[kLaneElements];

  TIP_HD bool is_untouched() const { return mode[0] == Mode::untouched && mode[1] == Mode::untouched; }
  TIP_HD bool is_silent() const { return mode[0] != Mode::selected && mode[1] != Mode::selected; }
};

class ThreeKernel {
 public:
  TIP_HD ThreeKernel(const Call& call, const Entry& entry, const Axis* axes, const Shared& shared, char* memory)
      : call_(call), entry_(entry), axes_(axes), shared_(shared), memory_(memory) {}

  TIP_HD bool is_dense() const { return entry_.path == Path::dense3x3; }

  TIP_HD void prepare(int thread, Lane& lane) const {
    TIP_UNROLL
    for (int i = 0; i < kLaneElements; ++i) lane.noise[i] = 0.0f;
    for (int i = 0; i < 2; ++i) lane.mode[i] = mode_of_slot(entry_, call_, shared_, 2 * thread + i);
    if (is_dense()) modes()[2 * thread] = lane.mode[0], modes()[2 * thread + 1] = lane.mode[1];
  }

  // Starts reading. The modes of the warp are there.
  TIP_HD void load(int thread, Lane& lane) const {
    with_small_type(entry_.dtype, [&](auto* type) {
      if (is_dense()) {
        load_warp(type, thread);
      } else if (!lane.is_untouched()) {
        load_pairs(type, thread, lane);
      }
    });
  }

  // What the normals of `take` have to be multiplied with.
  TIP_HD float unit() const { return call_.std[entry_.id] * kGain3x3; }

  TIP_HD void take(const float z[kGroup], Lane& lane) const {
    // Of two channels that meet in this lane one may be left alone.
    TIP_UNROLL
    for (int i = 0; i < 2; ++i)
      if (lane.mode[i] == Mode::selected) synthesize_3x3(z + 8 * i, lane.noise + 9 * i);
  }

  // Adds the noise, in shared memory if the gradient is there, else for good.
  TIP_HD void add(int thread, Lane& lane) const {
    const float scale = call_.grad_scale ? *call_.grad_scale : 1.0f;
    with_small_type(entry_.dtype, [&](auto* type) {
      if (is_dense()) {
        add_dense(type, thread, lane, scale);
      } else if (!lane.is_untouched()) {
        store_pairs(type, thread, lane, scale);
      }
    });
  }

  TIP_HD void store(int thread) const {
    with_small_type(entry_.dtype, [&](auto* type) { store_warp(type, thread); });
  }

 private:
  // Dense kernels, through shared memory.

  TIP_HD Mode* modes() const { return reinterpret_cast<Mode*>(memory_ + kThreads * kLaneElements * 4); }

  template <class T>
  TIP_HD T* tile_data(int first_slot) const {
    return reinterpret_cast<T*>(memory_) + 9 * first_slot;
  }

  template <class T>
  TIP_HD T* gradient_data(int first_slot) const {
    return reinterpret_cast<T*>(entry_.data) + shared_.tile.offset + 9 * (first_slot - shared_.tile.begin);
  }

  // Whether all of a warp's kernels are in one row and worked on, at an aligned address.
  TIP_HD bool whole(int first_slot, const void* data) const {
    const Tile& tile = shared_.tile;
    const int last_slot = first_slot + kWarpSlots - 1;
    if (first_slot < tile.begin || last_slot >= tile.end || reinterpret_cast<uintptr_t>(data) % 16 != 0) return false;
    if (tile.rows > 1 && place_of(entry_, tile, first_slot).row != place_of(entry_, tile, last_slot).row) return false;
    return modes()[first_slot] != Mode::untouched;
  }

  template <class T>
  TIP_HD void load_warp(T*, int thread) const {
    const int first = thread / kWarp * kWarpSlots, lane = thread % kWarp;
    const T* from = gradient_data<T>(first);
    T* to = tile_data<T>(first);
    if (whole(first, from)) {
      constexpr int kVector = 16 / sizeof(T);
      TIP_UNROLL
      for (int i = lane * kVector; i < kWarpElements; i += kWarp * kVector) start_copy(to + i, from + i);
    } else {
      for (int i = lane; i < kWarpElements; i += kWarp)
        if (modes()[first + i / 9] != Mode::untouched) to[i] = from[i];
    }
  }

  template <class T>
  TIP_HD void add_dense(T*, int thread, const Lane& lane, float scale) const {
    T* own = tile_data<T>(2 * thread);
    TIP_UNROLL
    for (int i = 0; i < kLaneElements; i += 2) {
      const Pair x = load_pair(own + i);
      store_pair(own + i, {x.first * scale + lane.noise[i], x.second * scale + lane.noise[i + 1]});
    }
  }

  template <class T>
  TIP_HD void store_warp(T*, int thread) const {
    const int first = thread / kWarp * kWarpSlots, lane = thread % kWarp;
    T* to = gradient_data<T>(first);
    const T* from = tile_data<T>(first);
    if (whole(first, to)) {
      constexpr int kVector = 16 / sizeof(T);
      TIP_UNROLL
      for (int i = lane * kVector; i < kWarpElements; i += kWarp * kVector) copy16(to + i, from + i);
    } else {
      for (int i = lane; i < kWarpElements; i += kWarp)
        if (modes()[first + i / 9] != Mode::untouched) to[i] = from[i];
    }
  }

  // Kernels that lie interleaved, two by two.

  TIP_HD int64_t offset_of_tap(int tap) const {
    const Axis* taps = axes_ + entry_.row_axes;
    return tap / 3 * taps[0].stride + tap % 3 * taps[1].stride;
  }

  template <class T>
  TIP_HD T* kernel_data(int thread) const {
    return reinterpret_cast<T*>(entry_.data) + unit_offset(entry_, axes_, shared_.tile, 2 * thread);
  }

  template <class T>
  TIP_HD void load_pairs(T*, int thread, Lane& lane) const {
    const T* data = kernel_data<T>(thread);
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap) {
      const Pair x = load_pair(data + offset_of_tap(tap));
      lane.x[tap] = x.first, lane.x[9 + tap] = x.second;
    }
  }

  template <class T>
  TIP_HD void store_pairs(T*, int thread, const Lane& lane, float scale) const {
    T* data = kernel_data<T>(thread);
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap)
      store_pair(data + offset_of_tap(tap), {lane.x[tap] * scale + lane.noise[tap],
                                             lane.x[9 + tap] * scale + lane.noise[9 + tap]});
  }

  const Call& call_;
  const Entry& entry_;
  const Axis* axes_;
  const Shared& shared_;
  char* memory_;
};

TIP_END_NAMESPACE
