// Whole vectors of kernels or elements, whose noise goes from registers to gradients without passing through memory.
#pragma once

#include "cpu/pairs3x3.h"

#include "cpu/amounts.h"
#include "cpu/draw.h"
#include "cpu/elements.h"
#include "cpu/kernel3x3.h"

TIP_BEGIN_NAMESPACE

// Which runs go this way, and what a vector of theirs is.
struct VectorPath {
  bool taken;
  int64_t lanes;  // of a run, in one vector

  explicit VectorPath(const Run& run) : taken(false), lanes(kLanes) {
    const RunTensor& tensor = *run.tensor;
    if (run.noise == Noise::none || !(run.unit_stride == 1 || run.contiguous())) return;
    if (tensor.taps == 9) {
      taken = is_3x3(tensor, run.noise);
      lanes = 2 * kLanes / run.packing.units;  // two kernels in every lane of the vector
    } else {
      taken = tensor.taps == 1 && run.noise == Noise::white;
    }
  }
};

// Of the lanes [begin, end) of a run, counted from its first, those that make whole vectors.
struct VectorLanes {
  int64_t begin, end;

  VectorLanes(const Run& run, int64_t first, int64_t last) : begin(first), end(first) {
    const VectorPath path(run);
    if (!path.taken) return;
    // A run's first and last lane may lack some of their units.
    const int64_t units = run.packing.units, whole_end = (run.first + run.units) / units - run.first_lane();
    if (first == 0 && run.first % units != 0) ++first;
    if (last > whole_end) last = whole_end;
    if (last - first < path.lanes) return;
    begin = first;
    end = first + (last - first) / path.lanes * path.lanes;
  }
};

// Adds noise to whole vectors of runs.
class Vectors {
 public:
  Vectors(const RunTable& table, const Draw& draw) : table_(table), draw_(draw) {}

  void perturb(const Run& run, const VectorLanes& lanes) const {
    if (lanes.begin == lanes.end) return;
    with_element(run.tensor->dtype, [&](auto element) {
      using T = decltype(element);
      with_grid<NumberOf<VectorOf<T>>>(run.tensor->grid, [&](auto round) { perturb_as<T>(run, lanes, round); });
    });
  }

 private:
  template <class T, class Round>
  void perturb_as(const Run& run, const VectorLanes& lanes, Round round) const {
    if (run.tensor->taps == 1) return add_elements(Elements<T>(), run, lanes, round);
    if (run.unit_stride == 1) return add_pairs(ChannelsLast<T>{run.tensor->tap_offsets}, run, lanes, round);
    add_pairs(Contiguous<T>(), run, lanes, round);
  }

  // Two kernels a lane: of one group without a floor, of two groups with one.
  template <class Layout, class Round>
  void add_pairs(Layout layout, const Run& run, const VectorLanes& lanes, Round round) const {
    using V = typename Layout::V;
    const Amounts<NumberOf<V>> amounts(table_, run);
    const bool share_group = run.packing.units == 2;
    const int64_t second = share_group ? kGroup / 2 : kNextKernel;
    for_each_vector(layout, run, lanes, [&](auto* x, const Counter<U>& group) __attribute__((always_inline)) {
      F z[2 * kNextKernel];
      if (share_group) {
        draw_.group(table_.stream, group, kGroup / 2, 8, amounts.drawn, z);
      } else {
        draw_.two_kernels(table_.stream, group, amounts.drawn, z);
      }
      for (int slice = 0; slice < kSlices<V>; ++slice, x += Layout::kStep / kSlices<V>) {
        V means[2] = {}, y[kPair3x3];
        if (amounts.replaces) layout.sum(x, amounts.mean, means);
        for (int k = 0; k < 2; ++k) noise_3x3<V>(run.noise, amounts, z + k * second, slice, means[k], y + k * 9);
        layout.add(x, amounts.scale, y, round);
      }
    });
  }

  // A group a lane.
  template <class Layout, class Round>
  void add_elements(Layout layout, const Run& run, const VectorLanes& lanes, Round round) const {
    using V = typename Layout::V;
    const Amounts<NumberOf<V>> amounts(table_, run);
    for_each_vector(layout, run, lanes, [&](auto* x, const Counter<U>& group) __attribute__((always_inline)) {
      F z[kGroup];
      draw_.group(table_.stream, group, 1, 1, amounts.drawn, z);
      for (int slice = 0; slice < kSlices<V>; ++slice, x += Layout::kStep / kSlices<V>) {
        V y[kGroup];
        for (int i = 0; i < kGroup; ++i) y[i] = slice_of<V>(z + i, slice);
        for (int i = 0; amounts.varied && i < kGroup; ++i) y[i] *= amounts.high;
        layout.add(x, amounts.scale, y, round);
      }
    });
  }

  // Calls f(first element, first groups of the lanes) for every vector. Gradients are fetched two vectors ahead, also
  // those of the next run, where the processor cannot foresee them. f is inlined, since as a call it takes 2 % more of
  // all time.
  template <class Layout, class Function>
  void for_each_vector(Layout layout, const Run& run, const VectorLanes& lanes, Function f) const {
    using T = typename Layout::Element;
    constexpr int64_t kAhead = 2;
    const Run& next_run = &run + 1 < table_.runs + table_.run_count ? *(&run + 1) : run;
    const T* next = reinterpret_cast<const T*>(next_run.data);
    const int64_t lanes_of_vector = VectorPath(run).lanes, first = run.first_lane() + lanes.begin;
    T* x = reinterpret_cast<T*>(run.data) + (first * run.packing.units - run.first) * run.unit_stride;
    const int groups = static_cast<int>(lanes_of_vector / kLanes);  // of a lane of the vector
    Counter<U> group = successive_groups(run.tensor->id, static_cast<uint64_t>(first), groups);
    for (int64_t left = (lanes.end - lanes.begin) / lanes_of_vector; left > 0; --left) {
      layout.fetch(left > kAhead ? x + kAhead * Layout::kStep : next + (kAhead - left) * Layout::kStep);
      f(x, group);
      x += Layout::kStep;
      advance(group, static_cast<uint32_t>(lanes_of_vector));
    }
  }

  const RunTable& table_;
  const Draw& draw_;
};

TIP_END_NAMESPACE
