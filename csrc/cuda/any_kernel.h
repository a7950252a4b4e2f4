// The path that takes every dtype, stride, kernel size and option: normals through shared memory, one element a thread.
#pragma once

#include "core/grid.h"
#include "cuda/selection.h"

TIP_BEGIN_NAMESPACE

constexpr int kGroupRoom = 20;  // of a group's 16 values: 16-byte stores of 8 threads then fall into different banks

// How a block divides its shared memory, in this order; A is the arithmetic's type, float or double.
struct AnyKernelMemory {
  int used;              // normals of a unit
  int64_t arithmetic;    // bytes of A
  int64_t basis_room;    // A from one row of the basis to the next; 0 if the basis stays where it is
  int64_t basis_values;  // A
  int64_t shares;        // A: what the band of each kernel loses
  int64_t normals;       // float
  int64_t noises;        // Noise

  TIP_HD AnyKernelMemory(const Entry& entry, bool floor, bool replaces) {
    used = static_cast<int>(used_words(entry.taps, entry.high_dim, floor));
    arithmetic = entry.dtype == DType::f64 ? 8 : 4;
    const int64_t slots = static_cast<int64_t>(entry.tile_lanes) * entry.lane_units;
    // An odd number lets successive rows start in different banks.
    basis_room = entry.basis && entry.taps <= kFusedTaps ? used | 1 : 0;
    basis_values = (entry.taps * basis_room + 3) / 4 * 4;
    shares = entry.basis && replaces ? (slots * entry.high_dim + 3) / 4 * 4 : 0;
    normals = static_cast<int64_t>(entry.tile_lanes) * entry.lane_groups * kGroupRoom;
    noises = entry.basis ? slots : 0;
  }
  TIP_HD int64_t bytes() const { return (basis_values + shares) * arithmetic + normals * 4 + noises; }
};

TIP_HD float load_as(const char* data, int64_t i, DType dtype, float) {
  if (dtype == DType::f32) return reinterpret_cast<const float*>(data)[i];
  if (dtype == DType::bf16) return value(reinterpret_cast<const BFloat16*>(data)[i]);
  return value(reinterpret_cast<const Half*>(data)[i]);
}
TIP_HD double load_as(const char* data, int64_t i, DType, double) { return reinterpret_cast<const double*>(data)[i]; }

TIP_HD void store_as(char* data, int64_t i, DType dtype, float x) {
  if (dtype == DType::f32) {
    reinterpret_cast<float*>(data)[i] = x;
  } else if (dtype == DType::bf16) {
    assign(reinterpret_cast<BFloat16*>(data)[i], x);
  } else {
    assign(reinterpret_cast<Half*>(data)[i], x);
  }
}
TIP_HD void store_as(char* data, int64_t i, DType, double x) { reinterpret_cast<double*>(data)[i] = x; }

class AnyKernel {
 public:
  TIP_HD AnyKernel(const TableHeader& header, const Entry& entry, const Axis* axes, const Shared& shared, char* memory)
      : header_(header),
        entry_(entry),
        axes_(axes),
        shared_(shared),
        memory_(memory),
        layout_(entry, header.floor_std != nullptr, header.keep != 1.0) {
    normals_ = reinterpret_cast<float*>(memory + (layout_.basis_values + layout_.shares) * layout_.arithmetic);
    noises_ = reinterpret_cast<Noise*>(normals_ + layout_.normals);
  }

  TIP_HD void prepare(int thread) const {
    TIP_ROLLED
    for (int slot = thread; slot < layout_.noises; slot += kThreads)
      noises_[slot] = noise_of_slot(entry_, header_, shared_, slot);
    if (layout_.basis_room > 0) with_arithmetic([&](auto zero) { load_basis(zero, thread); });
  }

  // Whether none of a group's words is used.
  TIP_HD bool is_silent(int group) const {
    const int first = group / entry_.lane_groups * entry_.lane_units;
    TIP_ROLLED
    for (int unit = 0; unit < entry_.lane_units; ++unit)
      if (noise(first + unit) >= Noise::white) return false;
    return true;
  }

  TIP_HD void take(int group, const float z[kGroup]) const {
    TIP_UNROLL
    for (int w = 0; w < kGroup; ++w) normals_[group * kGroupRoom + w] = z[w];
  }

  TIP_HD bool replaces() const { return layout_.shares > 0; }

  // Finds the share 1 - keep of the high band of selected kernels, which they lose.
  TIP_HD void replace(int thread) const {
    with_arithmetic([&](auto zero) { replace(zero, thread); });
  }

  TIP_HD void apply(int thread) const {
    with_arithmetic([&](auto zero) { apply(zero, thread); });
  }

 private:
  // Calls f with a zero of the type that the dtype's arithmetic uses.
  template <class F>
  TIP_HD void with_arithmetic(F f) const {
    if (entry_.dtype == DType::f64) {
      f(0.0);
    } else {
      f(0.0f);
    }
  }

  template <class A>
  TIP_HD void load_basis(A, int thread) const {
    A* basis = reinterpret_cast<A*>(memory_);
    TIP_ROLLED
    for (int i = thread; i < entry_.taps * layout_.used; i += kThreads) {
      const int tap = i / layout_.used, column = i % layout_.used;
      basis[tap * layout_.basis_room + column] = static_cast<A>(entry_.basis[tap * entry_.taps + column]);
    }
  }

  template <class A>
  TIP_HD void replace(A zero, int thread) const {
    const int begin = shared_.tile.begin * entry_.high_dim, end = shared_.tile.end * entry_.high_dim;
    const A lost = static_cast<A>(header_.keep - 1.0) * scale<A>();
    TIP_ROLLED
    for (int i = begin + thread; i < end; i += kThreads) {
      const int slot = i / entry_.high_dim, column = i % entry_.high_dim;
      if (!is_of_selected(noise(slot))) continue;
      A sum = 0;
      for (int tap = 0; tap < entry_.taps; ++tap)
        sum += basis<A>(tap, column) * load_as(entry_.data, offset(slot, tap), entry_.dtype, zero);
      shares<A>()[i] = lost * sum;
    }
  }

  // Elements in the order in which they lie in memory.
  template <class A>
  TIP_HD void apply(A zero, int thread) const {
    const int slots = shared_.tile.end - shared_.tile.begin, taps = entry_.taps;
    const bool interleaved = entry_.unit_stride == 1 && taps > 1;
    const A std = header_.std[entry_.id], factor = scale<A>();
    const A floor = header_.floor_std ? header_.floor_std[entry_.id] : 0.0f;
    const Grid<A> grid(grid_step(entry_, header_));
    TIP_ROLLED
    for (int i = thread; i < slots * taps; i += kThreads) {
      const int slot = shared_.tile.begin + (taps == 1 ? i : interleaved ? i % slots : i / taps);
      const int tap = taps == 1 ? 0 : interleaved ? i / slots : i % taps;
      const Noise kind = noise(slot);
      if (kind == Noise::untouched) continue;
      const int64_t at = offset(slot, tap);
      A x = load_as(entry_.data, at, entry_.dtype, zero) * factor;
      if (kind == Noise::white) x += floor * normal(slot, tap);
      if (kind >= Noise::band) x += added(slot, tap, kind == Noise::colored ? floor : std, floor);
      if (grid) x = grid(x);
      store_as(entry_.data, at, entry_.dtype, x);
    }
  }

  template <class A>
  TIP_HD A scale() const {
    return header_.grad_scale ? static_cast<A>(*header_.grad_scale) : 1;
  }

  TIP_HD Noise noise(int slot) const {
    return entry_.basis ? noises_[slot] : noise_of_slot(entry_, header_, shared_, slot);
  }

  template <class A>
  TIP_HD A* shares() const {
    return reinterpret_cast<A*>(memory_) + layout_.basis_values;
  }

  template <class A>
  TIP_HD A basis(int tap, int column) const {
    if (layout_.basis_room > 0) return reinterpret_cast<const A*>(memory_)[tap * layout_.basis_room + column];
    return static_cast<A>(entry_.basis[static_cast<int64_t>(tap) * entry_.taps + column]);
  }

  // Normal `column` of a slot's unit.
  TIP_HD float normal(int slot, int column) const {
    const int word = slot * (kGroup / entry_.lane_units) * entry_.lane_groups + column;
    return normals_[word + word / kGroup * (kGroupRoom - kGroup)];
  }

  template <class A>
  TIP_HD A added(int slot, int tap, A std, A floor) const {
    const bool selected = is_of_selected(noise(slot));
    const float* amplitudes = amplitudes_of(entry_, selected);
    A sum = 0;
    for (int column = 0; column < layout_.used; ++column) {
      const bool high = column < entry_.high_dim;
      A coefficient = (high ? std : floor) * normal(slot, column);
      if (amplitudes) coefficient *= amplitudes[column];
      if (high && selected && layout_.shares > 0) coefficient += shares<A>()[slot * entry_.high_dim + column];
      sum += basis<A>(tap, column) * coefficient;
    }
    return sum;
  }

  TIP_HD int64_t offset(int slot, int tap) const {
    return unit_offset(entry_, axes_, shared_.tile, slot) + tap_offset(entry_, axes_, tap);
  }

  const TableHeader& header_;
  const Entry& entry_;
  const Axis* axes_;
  const Shared& shared_;
  char* memory_;
  const AnyKernelMemory layout_;
  float* normals_;
  Noise* noises_;
};

TIP_END_NAMESPACE
