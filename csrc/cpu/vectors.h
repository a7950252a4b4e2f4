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

  VectorPath(const RunTable& table, const Run& run) : taken(false), lanes(kLanes) {
    const RunTensor& tensor = *run.tensor;
    if (tensor.dtype == DType::f64 || (table.keep != 1.0 && run.noise != Noise::white)) return;
    if (run.noise == Noise::none || !(run.unit_stride == 1 || run.contiguous())) return;
    if (tensor.taps == 9) {
      taken = run.noise == Noise::white || tensor.basis->all_but_dc_3x3;
      lanes = 2 * kLanes / run.packing.units;  // two kernels in every lane of the vector
    } else {
      taken = tensor.taps == 1 && run.noise == Noise::white;
    }
  }
};

// Of the lanes [begin, end) of a run, counted from its first, those that make whole vectors.
struct VectorLanes {
  int64_t begin, end;

  VectorLanes(const RunTable& table, const Run& run, int64_t first, int64_t last) : begin(first), end(first) {
    const VectorPath path(table, run);
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
    switch (run.tensor->dtype) {
      case DType::f32: return perturb_as<float>(run, lanes);
      case DType::bf16: return perturb_as<BFloat16>(run, lanes);
      case DType::f16: return perturb_as<Half>(run, lanes);
      case DType::f64: return;  // does not go this way
    }
  }

 private:
  template <class T>
  void perturb_as(const Run& run, const VectorLanes& lanes) const {
    const Grid<float> grid(run.tensor->grid);
    grid ? perturb_rounded<T>(run, lanes, grid) : perturb_rounded<T>(run, lanes, NoGrid());
  }

  template <class T, class Round>
  void perturb_rounded(const Run& run, const VectorLanes& lanes, Round round) const {
    if (run.tensor->taps == 1) return add_elements(Elements<T>(), run, lanes, round);
    if (run.unit_stride == 1) return add_pairs(ChannelsLast<T>{run.tensor->tap_offsets}, run, lanes, round);
    add_pairs(Contiguous<T>{}, run, lanes, round);
  }

  // Two kernels a lane: of one group without a floor, of two groups with one.
  template <class Layout, class Round>
  void add_pairs(Layout layout, const Run& run, const VectorLanes& lanes, Round round) const {
    const Amounts amounts(run);
    const bool share_group = run.packing.units == 2;
    const int groups = share_group ? 1 : 2;
    const int64_t next = share_group ? kGroup / 2 : kNextKernel;
    const int64_t first = run.first_lane() + lanes.begin;
    Counter<U> group = successive_groups(run.tensor->id, static_cast<uint64_t>(first), groups);
    for_each_vector(layout, run, first, lanes, [&](auto* x) {
      F z[2 * kNextKernel], y[kPair3x3];
      if (share_group) {
        draw_.group(table_.stream, group, kGroup / 2, 8, amounts.drawn, z);
      } else {
        draw_.two_kernels(table_.stream, group, amounts.drawn, z);
      }
      kernel_noise(run.noise, amounts, z, y);
      kernel_noise(run.noise, amounts, z + next, y + 9);
      layout.add(x, table_.grad_scale, y, round);
      advance(group, kLanes * groups);
    });
  }

  template <class Layout, class Round>
  void add_elements(Layout layout, const Run& run, const VectorLanes& lanes, Round round) const {
    const float amplitude = Amounts(run).drawn;
    const int64_t first = run.first_lane() + lanes.begin;
    Counter<U> group = successive_groups(run.tensor->id, static_cast<uint64_t>(first));
    for_each_vector(layout, run, first, lanes, [&](auto* x) {
      F z[kGroup];
      draw_.group(table_.stream, group, 1, 1, amplitude, z);
      layout.add(x, table_.grad_scale, z, round);
      advance(group, kLanes);
    });
  }

  // Calls f(first element of a vector). Gradients are fetched two vectors ahead, also those of the next run, where the
  // processor cannot foresee them.
  template <class Layout, class Function>
  void for_each_vector(Layout layout, const Run& run, int64_t first, const VectorLanes& lanes, Function f) const {
    using T = typename Layout::Element;
    constexpr int64_t kAhead = 2;
    const Run& next_run = &run + 1 < table_.runs + table_.run_count ? *(&run + 1) : run;
    const T* next = reinterpret_cast<const T*>(next_run.data);
    T* x = reinterpret_cast<T*>(run.data) + (first * run.packing.units - run.first) * run.unit_stride;
    for (int64_t left = (lanes.end - lanes.begin) / VectorPath(table_, run).lanes; left > 0; --left) {
      layout.fetch(left > kAhead ? x + kAhead * Layout::kStep : next + (kAhead - left) * Layout::kStep);
      f(x);
      x += Layout::kStep;
    }
  }

  const RunTable& table_;
  const Draw& draw_;
};

TIP_END_NAMESPACE
