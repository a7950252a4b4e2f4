// 3x3 kernels with all bins but DC in the high band, TIP's common case, and nothing taken away: without a floor two
// kernels a thread from 16 words, with one a kernel a thread.
//
// Gradients that lie densely pass through shared memory, a warp at a time, in 16-byte accesses; those whose kernels lie
// interleaved (channels_last) are read and written where they are, which neighboring threads do together.
#pragma once

#include "core/basis3x3.h"
#include "core/grid.h"
#include "cuda/element_pairs.h"
#include "cuda/selection.h"
#include "cuda/warp_copy.h"

TIP_BEGIN_NAMESPACE

// The tile as the widest dtype, and a byte for each slot.
TIP_HD int64_t shared_bytes_3x3(Path path, bool floor) {
  const int kernels = floor ? kThreads : 2 * kThreads;
  return path == Path::dense3x3 ? kernels * (9 * 4 + 1) : 0;
}

// What the two ways have in common: a thread works on kKernels successive kernels, a warp on kWarp times as many.
template <int kKernels>
class Kernels3x3 {
 public:
  static constexpr int kElements = 9 * kKernels;

  // What a thread keeps of a pass.
  struct Lane {
    bool busy;              // some kernel of the warp is worked on
    bool whole;             // all are, they lie densely and at an aligned address
    Noise noise[kKernels];  // of the thread's kernels
    float added[kElements];
  };

  TIP_HD Kernels3x3(const TableHeader& header, const Entry& entry, const Axis* axes, const Shared& shared, char* memory)
      : header_(header), entry_(entry), axes_(axes), shared_(shared), memory_(memory) {}

  TIP_HD int passes() const { return (entry_.tile_lanes + kThreads - 1) / kThreads; }

  // The axes of such tensors are rows and taps.
  TIP_HD void prepare(int thread, int pass, Lane& lane) const {
    const Tile& tile = shared_.tile;
    const int first = warp_slot(thread, pass), last = first + kWarpKernels - 1;
    const bool inside = first >= tile.begin && last < tile.end;
    const int first_row = inside ? row_unit_of(entry_, tile, first).row : 0;
    const int last_row = inside ? row_unit_of(entry_, tile, last).row : 0;
    bool all = inside;
    lane.busy = !inside && last >= tile.begin && first < tile.end;
    TIP_ROLLED
    for (int row = first_row; inside && row <= last_row; ++row) {
      const bool touched = shared_.noise[row] != Noise::untouched;
      all &= touched;
      lane.busy |= touched;
    }
    lane.whole = all && is_dense() && reinterpret_cast<uintptr_t>(gradient_of(first)) % 16 == 0;
    TIP_UNROLL
    for (int i = 0; i < kKernels; ++i)
      lane.noise[i] = first_row == last_row && inside ? shared_.noise[first_row]
                                                      : noise_of_slot(entry_, header_, shared_, slot(thread, pass) + i);
    if (is_dense() && !lane.whole) {
      TIP_UNROLL
      for (int i = 0; i < kKernels; ++i) noises()[kKernels * thread + i] = lane.noise[i];
    }
  }

  // Starts to read dense gradients. The noises of the warp are there.
  TIP_HD void load(int thread, int pass, const Lane& lane) const {
    if (is_dense()) copy_dense<true>(thread, pass, lane);
  }

  // Writes what `load` has read.
  TIP_HD void store(int thread, int pass, const Lane& lane) const {
    if (is_dense()) copy_dense<false>(thread, pass, lane);
  }

 protected:
  static constexpr int kWarpKernels = kKernels * kWarp;

  TIP_HD bool is_dense() const { return entry_.path == Path::dense3x3; }
  TIP_HD int slot(int thread, int pass) const { return kKernels * (pass * kThreads + thread); }
  TIP_HD int64_t group(int thread, int pass) const { return shared_.tile.lane + pass * kThreads + thread; }
  TIP_HD float scale() const { return header_.grad_scale ? *header_.grad_scale : 1.0f; }

  // The thread's kernels in shared memory.
  template <class T>
  TIP_HD T* own(int thread) const {
    return reinterpret_cast<T*>(memory_) + kElements * thread;
  }

  // Elements from the tensor's first to the first tap of a thread's first kernel, where kernels lie interleaved.
  TIP_HD int64_t interleaved_offset(int thread, int pass) const {
    const RowUnit at = row_unit_of(entry_, shared_.tile, slot(thread, pass));
    return (shared_.tile.row + at.row) * axes_[0].stride + at.unit;
  }
  TIP_HD int64_t tap_stride() const { return axes_[1].stride; }

  const TableHeader& header_;
  const Entry& entry_;

 private:
  TIP_HD Noise* noises() const { return reinterpret_cast<Noise*>(memory_ + kThreads * kElements * 4); }

  TIP_HD int warp_slot(int thread, int pass) const { return slot(thread / kWarp * kWarp, pass); }

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
    constexpr int kWarpElements = 9 * kWarpKernels, kBytes = kWarpElements * sizeof(Bits);
    char* gradient = gradient_of(warp_slot(thread, pass));
    char* tile = memory_ + thread / kWarp * kBytes;
    if (lane.whole) {
      copy_whole<kLoad, kBytes, Together>(tile, gradient, thread);
    } else {
      const Noise* noises_of_warp = noises() + thread / kWarp * kWarpKernels;
      copy_some<kLoad, Bits, kWarpElements, Together>(
          tile, gradient, thread, [=](int i) { return noises_of_warp[i / 9] != Noise::untouched; });
    }
  }

  const Axis* axes_;
  const Shared& shared_;
  char* memory_;
};

// Without a floor.
class Band3x3 : public Kernels3x3<2> {
 public:
  using Kernels3x3::Kernels3x3;

  template <int kGenerator>
  TIP_HD void draw_noise(const Source& source, int thread, int pass, Lane& lane) const {
    if (lane.noise[0] != Noise::band && lane.noise[1] != Noise::band) {
      TIP_UNROLL
      for (int i = 0; i < kElements; ++i) lane.added[i] = 0.0f;
      return;
    }
    float z[kGroup];
    draw<kGenerator>(source, entry_.id, group(thread, pass), header_.std[entry_.id] * kGain3x3, z);
    TIP_UNROLL
    for (int i = 0; i < 2; ++i) synthesize_3x3(z + 8 * i, lane.added + 9 * i);
    // Of two channels that meet in this lane one may be left alone.
    if (lane.noise[0] == lane.noise[1]) return;
    TIP_UNROLL
    for (int i = 0; i < kElements; ++i)
      if (lane.noise[i / 9] != Noise::band) lane.added[i] = 0.0f;
  }

  // Adds the noise, in shared memory to dense gradients, else for good.
  TIP_HD void add(int thread, int pass, const Lane& lane) const {
    const float factor = scale();
    if (is_dense()) {
      with_small_type(entry_.dtype, [&](auto* type) { add_dense(own_as(type, thread), lane, factor); });
    } else if (lane.noise[0] != Noise::untouched) {  // kernels of a pair are in one row
      const int64_t offset = interleaved_offset(thread, pass);
      with_small_type(entry_.dtype, [&](auto* type) { add_pairs(data_as(type) + offset, lane, factor); });
    }
  }

 private:
  template <class T>
  TIP_HD T* own_as(T*, int thread) const {
    return own<T>(thread);
  }
  template <class T>
  TIP_HD T* data_as(T*) const {
    return reinterpret_cast<T*>(entry_.data);
  }

  template <class T>
  TIP_HD void add_dense(T* own, const Lane& lane, float factor) const {
    TIP_UNROLL
    for (int i = 0; i < kElements; i += 2) {
      const Pair x = load_pair(own + i);
      store_pair(own + i, {x.first * factor + lane.added[i], x.second * factor + lane.added[i + 1]});
    }
  }

  // Kernels that lie interleaved, two by two.
  template <class T>
  TIP_HD void add_pairs(T* data, const Lane& lane, float factor) const {
    const int64_t stride = tap_stride();
    Pair x[9];
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap) x[tap] = load_pair(data + tap * stride);
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap)
      store_pair(data + tap * stride,
                 {x[tap].first * factor + lane.added[tap], x[tap].second * factor + lane.added[9 + tap]});
  }
};

// With a floor: every coefficient of a selected kernel, every tap of another has noise, and the sums go to the grid.
class Floor3x3 : public Kernels3x3<1> {
 public:
  using Kernels3x3::Kernels3x3;

  template <int kGenerator>
  TIP_HD void draw_noise(const Source& source, int thread, int pass, Lane& lane) const {
    if (lane.noise[0] == Noise::untouched) return;
    float z[kGroup];  // of which 9 are used, and what only the others need is not computed
    draw<kGenerator>(source, entry_.id, group(thread, pass), 1.0f, z);
    const float floor = header_.floor_std[entry_.id];
    if (lane.noise[0] == Noise::white) {
      TIP_UNROLL
      for (int tap = 0; tap < 9; ++tap) lane.added[tap] = z[tap] * floor;
      return;
    }
    const float amplitude = header_.std[entry_.id] * kGain3x3, constant = z[8] * (floor * kDcGain3x3);
    TIP_UNROLL
    for (int i = 0; i < 8; ++i) z[i] *= amplitude;
    synthesize_3x3(z, lane.added);
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap) lane.added[tap] += constant;
  }

  TIP_HD void add(int thread, int pass, const Lane& lane) const {
    if (lane.noise[0] == Noise::untouched) return;
    const Grid<float> grid(grid_step(header_.floor_std[entry_.id], header_.std[entry_.id]));
    with_small_type(entry_.dtype, [&](auto* type) {
      const auto data = place(type, thread, pass);
      if (grid) {
        add_taps(data, lane, grid);
      } else {
        add_taps(data, lane, NoGrid());
      }
    });
  }

 private:
  template <class T>
  struct Taps {
    T* first;
    int64_t stride;
  };

  template <class T>
  TIP_HD Taps<T> place(T*, int thread, int pass) const {
    if (is_dense()) return {own<T>(thread), 1};
    return {reinterpret_cast<T*>(entry_.data) + interleaved_offset(thread, pass), tap_stride()};
  }

  template <class T, class G>
  TIP_HD void add_taps(const Taps<T>& taps, const Lane& lane, const G& grid) const {
    const float factor = scale();
    float x[9];
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap) x[tap] = value(taps.first[tap * taps.stride]);
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap) assign(taps.first[tap * taps.stride], grid(x[tap] * factor + lane.added[tap]));
  }
};

TIP_END_NAMESPACE
