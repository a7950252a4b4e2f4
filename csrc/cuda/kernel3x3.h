// 3x3 kernels with all bins but DC in the high band, TIP's common case, and nothing taken away: two kernels a thread, from
// 16 words without a floor, from 32 with one.
//
// Gradients that lie densely pass through shared memory, a warp at a time, in 16-byte accesses; those whose kernels lie
// interleaved (channels_last) are read and written two kernels at a time.
#pragma once

#include "core/basis3x3.h"
#include "core/grid.h"
#include "cuda/element_pairs.h"
#include "cuda/selection.h"
#include "cuda/warp_copy.h"

TIP_BEGIN_NAMESPACE

constexpr int kThreadKernels = 2;
constexpr int kThreadElements = 9 * kThreadKernels;

// The tile as the widest dtype, and a byte for each slot.
TIP_HD int64_t shared_bytes_3x3(Path path) {
  return path == Path::dense3x3 ? kThreads * (kThreadElements * 4 + kThreadKernels) : 0;
}

// What both ways have in common.
class Kernels3x3 {
 public:
  static constexpr bool kPreparesShared = true;  // for other threads of the warp

  // What a thread keeps of a pass.
  struct Lane {
    bool busy;                    // some kernel of the warp is worked on
    bool whole;                   // all are, they lie densely and at an aligned address
    Noise noise[kThreadKernels];  // of the thread's kernels
    float added[kThreadElements];
  };

  TIP_HD Kernels3x3(const TableHeader& header, const Entry& entry, const Axis* axes, const Shared& shared, char* memory)
      : header_(header), entry_(entry), shared_(shared), axes_(axes), memory_(memory) {}

  TIP_HD int passes() const {
    const int slots = entry_.tile_lanes * entry_.lane_units, of_pass = kThreads * kThreadKernels;
    return (slots + of_pass - 1) / of_pass;
  }

  // The axes of such tensors are rows and taps.
  TIP_HD void prepare(int thread, int pass, Lane& lane) const {
    const Tile& tile = shared_.tile;
    const int first = warp_slot(thread, pass), last = first + kWarpKernels - 1;
    const bool inside = first >= tile.begin && last < tile.end;
    const int first_row = inside ? row_unit_of(entry_, tile, first).row : 0;
    const int last_row = inside ? row_unit_of(entry_, tile, last).row : 0;
    bool all = inside;
    if (inside && first_row == last_row) {
      lane.noise[0] = lane.noise[1] = shared_.noise[first_row];
      lane.busy = all = lane.noise[0] != Noise::untouched;
    } else {
      lane.busy = !inside && last >= tile.begin && first < tile.end;
      TIP_ROLLED
      for (int row = first_row; inside && row <= last_row; ++row) {
        const bool touched = shared_.noise[row] != Noise::untouched;
        all &= touched;
        lane.busy |= touched;
      }
      TIP_UNROLL
      for (int i = 0; i < kThreadKernels; ++i)
        lane.noise[i] = noise_of_slot(entry_, header_, shared_, slot(thread, pass) + i);
    }
    lane.whole = all && is_dense() && reinterpret_cast<uintptr_t>(gradient_of(first)) % 16 == 0;
    if (lane.whole || !is_dense()) return;
    TIP_UNROLL
    for (int i = 0; i < kThreadKernels; ++i) noises()[kThreadKernels * thread + i] = lane.noise[i];
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
  // Index of a thread's first kernel in the tile.
  TIP_HD int slot(int thread, int pass) const { return kThreadKernels * (pass * kThreads + thread); }

  // Adds the noise, in shared memory to dense gradients, else for good.
  template <class Round>
  TIP_HD void add(int thread, int pass, const Lane& lane, const Round& round) const {
    const float scale = header_.grad_scale ? *header_.grad_scale : 1.0f;
    if (is_dense()) {
      with_small_type(entry_.dtype, [&](auto* type) { add_dense(type, thread, lane, scale, round); });
    } else if (lane.noise[0] != Noise::untouched) {  // kernels of a pair are in one row
      with_small_type(entry_.dtype, [&](auto* type) { add_pairs(type, slot(thread, pass), lane, scale, round); });
    }
  }

  const TableHeader& header_;
  const Entry& entry_;
  const Shared& shared_;

 private:
  static constexpr int kWarpKernels = kThreadKernels * kWarp;

  TIP_HD bool is_dense() const { return entry_.path == Path::dense3x3; }

  TIP_HD Noise* noises() const { return reinterpret_cast<Noise*>(memory_ + kThreads * kThreadElements * 4); }

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
      copy_some<kLoad, Bits, kWarpElements, Together>(tile, gradient, thread,
                                                      [=](int i) { return noises_of_warp[i / 9] != Noise::untouched; });
    }
  }

  template <class T, class Round>
  TIP_HD void add_dense(T*, int thread, const Lane& lane, float scale, const Round& round) const {
    T* own = reinterpret_cast<T*>(memory_) + kThreadElements * thread;
    TIP_UNROLL
    for (int i = 0; i < kThreadElements; i += 2) {
      const Pair x = load_pair(own + i);
      store_pair(own + i, {round(x.first * scale + lane.added[i]), round(x.second * scale + lane.added[i + 1])});
    }
  }

  // Kernels that lie interleaved, two by two.
  template <class T, class Round>
  TIP_HD void add_pairs(T*, int slot, const Lane& lane, float scale, const Round& round) const {
    const RowUnit at = row_unit_of(entry_, shared_.tile, slot);
    T* data = reinterpret_cast<T*>(entry_.data) + (shared_.tile.row + at.row) * axes_[0].stride + at.unit;
    const int64_t stride = axes_[1].stride;
    Pair x[9];
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap) x[tap] = load_pair(data + tap * stride);
    TIP_UNROLL
    for (int tap = 0; tap < 9; ++tap)
      store_pair(data + tap * stride,
                 {round(x[tap].first * scale + lane.added[tap]), round(x[tap].second * scale + lane.added[9 + tap])});
  }

  const Axis* axes_;
  char* memory_;
};

// Without a floor: only selected kernels have noise.
class Band3x3 : public Kernels3x3 {
 public:
  using Kernels3x3::Kernels3x3;

  template <int kGenerator>
  TIP_HD void draw_noise(const Source& source, int thread, int pass, Lane& lane) const {
    if (lane.noise[0] != Noise::band && lane.noise[1] != Noise::band) {
      TIP_UNROLL
      for (int i = 0; i < kThreadElements; ++i) lane.added[i] = 0.0f;
      return;
    }
    float z[kGroup];
    const int64_t group = shared_.tile.lane + pass * kThreads + thread;
    draw<kGenerator>(source, entry_.id, group, header_.std[entry_.id] * kGain3x3, z);
    if (entry_.amplitudes) {
      TIP_UNROLL
      for (int j = 0; j < kGroup; ++j) z[j] *= entry_.amplitudes[j % 8];
    }
    TIP_UNROLL
    for (int i = 0; i < kThreadKernels; ++i) synthesize_3x3(z + 8 * i, lane.added + 9 * i);
    // Of two channels that meet in this lane one may be left alone.
    if (lane.noise[0] == lane.noise[1]) return;
    TIP_UNROLL
    for (int i = 0; i < kThreadElements; ++i)
      if (lane.noise[i / 9] != Noise::band) lane.added[i] = 0.0f;
  }

  TIP_HD void add(int thread, int pass, const Lane& lane) const { Kernels3x3::add(thread, pass, lane, NoGrid()); }
};

// With a floor: every coefficient of a selected kernel, every tap of another has noise, and the sums go to the grid.
class Floor3x3 : public Kernels3x3 {
 public:
  using Kernels3x3::Kernels3x3;

  template <int kGenerator>
  TIP_HD void draw_noise(const Source& source, int thread, int pass, Lane& lane) const {
    const float floor = header_.floor_std[entry_.id];
    TIP_UNROLL
    for (int i = 0; i < kThreadKernels; ++i) {
      float z[kGroup];  // of which 9 are used, and what only the others need is not computed
      draw<kGenerator>(source, entry_.id, shared_.tile.lane + slot(thread, pass) + i, 1.0f, z);
      float* added = lane.added + 9 * i;
      if (lane.noise[i] >= Noise::full) {  // or colored
        const bool selected = lane.noise[i] == Noise::full;
        if (const float* amplitudes = amplitudes_of(entry_, selected)) {
          TIP_UNROLL
          for (int j = 0; j < 9; ++j) z[j] *= amplitudes[j];
        }
        const float amplitude = (selected ? header_.std[entry_.id] : floor) * kGain3x3;
        const float constant = z[8] * (floor * kDcGain3x3);
        TIP_UNROLL
        for (int j = 0; j < 8; ++j) z[j] *= amplitude;
        synthesize_3x3(z, added);
        TIP_UNROLL
        for (int tap = 0; tap < 9; ++tap) added[tap] += constant;
      } else {
        TIP_UNROLL
        for (int tap = 0; tap < 9; ++tap) added[tap] = z[tap] * floor;
      }
    }
  }

  TIP_HD void add(int thread, int pass, const Lane& lane) const {
    const Grid<float> grid(grid_step(entry_, header_));
    if (grid) {
      Kernels3x3::add(thread, pass, lane, grid);
    } else {
      Kernels3x3::add(thread, pass, lane, NoGrid());
    }
  }
};

TIP_END_NAMESPACE
