// Elements without a high band that lie one after the other, of all dtypes but float64: 16 of them a thread, from a group
// of words, or only scaled. They pass through shared memory, a warp at a time, in 16-byte accesses.
#pragma once

#include "core/grid.h"
#include "cuda/element_pairs.h"
#include "cuda/selection.h"
#include "cuda/warp_copy.h"

TIP_BEGIN_NAMESPACE

// A thread's 16 elements of T in shared memory.
template <class T>
using ElementRows = SharedRows<kGroup * sizeof(T), kGroup * sizeof(T) + 16>;

constexpr int64_t kElementsSharedBytes = kThreads * ElementRows<float>::kPitch;

class Elements {
 public:
  static constexpr bool kPreparesShared = false;

  struct Lane {
    bool busy, whole;  // whether the warp has elements, and all of them at an aligned address
    float added[kGroup];
  };

  TIP_HD Elements(const TableHeader& header, const Entry& entry, const Axis*, const Shared& shared, char* memory)
      : header_(header), entry_(entry), tile_(shared.tile), memory_(memory) {}

  TIP_HD int passes() const { return (entry_.tile_lanes + kThreads - 1) / kThreads; }

  TIP_HD void prepare(int thread, int pass, Lane& lane) const {
    const int first = warp_slot(thread, pass), end = first + kWarpElements;
    lane.busy = end > tile_.begin && first < tile_.end;
    lane.whole = first >= tile_.begin && end <= tile_.end && reinterpret_cast<uintptr_t>(gradient_of(first)) % 16 == 0;
  }

  TIP_HD void load(int thread, int pass, const Lane& lane) const { copy<true>(thread, pass, lane); }
  TIP_HD void store(int thread, int pass, const Lane& lane) const { copy<false>(thread, pass, lane); }

  template <int kGenerator>
  TIP_HD void draw_noise(const Source& source, int thread, int pass, Lane& lane) const {
    if (!header_.floor_std) return;
    draw<kGenerator>(source, entry_.id, tile_.lane + pass * kThreads + thread, header_.floor_std[entry_.id],
                     lane.added);
  }

  TIP_HD void add(int thread, int, const Lane& lane) const {
    const float factor = header_.grad_scale ? *header_.grad_scale : 1.0f;
    const Grid<float> grid(header_.floor_std ? grid_step(header_.floor_std[entry_.id], 0.0f) : 0.0f);
    with_small_type(entry_.dtype, [&](auto* type) {
      auto* own = own_as(type, thread);
      if (!header_.floor_std) {
        change(own, [&](float x, int) { return x * factor; });
      } else if (grid) {
        change(own, [&](float x, int i) { return grid(x * factor + lane.added[i]); });
      } else {
        change(own, [&](float x, int i) { return x * factor + lane.added[i]; });
      }
    });
  }

 private:
  static constexpr int kWarpElements = kWarp * kGroup;

  TIP_HD int warp_slot(int thread, int pass) const { return kGroup * (pass * kThreads + thread / kWarp * kWarp); }

  TIP_HD char* gradient_of(int slot) const {
    return global_pointer(tile_.data) + static_cast<int64_t>(slot) * tile_.slot_bytes;
  }

  template <class T>
  TIP_HD T* own_as(T*, int thread) const {
    return reinterpret_cast<T*>(memory_ + thread * ElementRows<T>::kPitch);
  }

  // Every element of a row, in vectors of 16 bytes.
  template <class T, class F>
  TIP_HD void change(T* row, F f) const {
    constexpr int kVector = 16 / sizeof(T);
    struct alignas(16) Vector {
      T element[kVector];
    };
    Vector* vectors = reinterpret_cast<Vector*>(row);
    TIP_UNROLL
    for (int v = 0; v < kGroup / kVector; ++v) {
      Vector x = vectors[v];
      TIP_UNROLL
      for (int e = 0; e < kVector; ++e) assign(x.element[e], f(value(x.element[e]), v * kVector + e));
      vectors[v] = x;
    }
  }

  template <bool kLoad>
  TIP_HD void copy(int thread, int pass, const Lane& lane) const {
    if (tile_.slot_bytes == sizeof(float)) {
      copy_as<kLoad, uint32_t>(thread, pass, lane);
    } else {
      copy_as<kLoad, uint16_t>(thread, pass, lane);
    }
  }

  template <bool kLoad, class Bits>
  TIP_HD void copy_as(int thread, int pass, const Lane& lane) const {
    using Rows = ElementRows<Bits>;
    const int first = warp_slot(thread, pass);
    char* gradient = gradient_of(first);
    char* rows = memory_ + thread / kWarp * kWarp * Rows::kPitch;
    if (lane.whole) {
      copy_whole<kLoad, static_cast<int>(sizeof(Bits)) * kWarpElements, Rows>(rows, gradient, thread);
    } else {
      const int begin = tile_.begin - first, end = tile_.end - first;
      copy_some<kLoad, Bits, kWarpElements, Rows>(rows, gradient, thread, [=](int i) { return i >= begin && i < end; });
    }
  }

  const TableHeader& header_;
  const Entry& entry_;
  const Tile& tile_;
  char* memory_;
};

TIP_END_NAMESPACE
