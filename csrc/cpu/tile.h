// Kernels and elements of any strides: their noise goes through rows in scratch memory.
//
// A tile is some vectors of lanes: a part of one run, or short runs of one tensor together. Noise goes from lanes to
// rows by transposition in registers, so that gradients are read and written as streams; it is added only when the
// whole tile is drawn, because noise just stored in other pieces than it is loaded in would stall the loads. What a
// kernel loses with `keep` below 1 follows from its gradients, which are read to the rows before.
#pragma once

#include "cpu/apply.h"

#include "cpu/amounts.h"
#include "cpu/draw.h"
#include "cpu/kernel3x3.h"
#include "cpu/pairs3x3.h"
#include "cpu/project.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"

TIP_BEGIN_NAMESPACE

// Part of a run in a tile.
struct Segment {
  const Run* run;
  int64_t unit;  // first unit, counted from the run's first
  int64_t units;
  int64_t row;  // of the tile's rows, one for each unit
};

class Tile {
 public:
  Tile(const RunTable& table, const Draw& draw, const Scratch& scratch)
      : table_(table), draw_(draw), scratch_(scratch) {}

  // Adds lanes [begin, end) of a run, counted from its first lane.
  void add(const Run& run, int64_t begin, int64_t end) {
    if (begin >= end) return;
    if (run.tensor != tensor_ || run.noise != noise_) start(run);
    const int64_t first_lane = run.first_lane();
    while (begin < end) {
      const int64_t take = smaller(end - begin, capacity_ - lanes_);
      add_segment(run, first_lane + begin, take);
      begin += take;
      if (lanes_ == capacity_) flush();
    }
  }

  void flush() {
    if (segment_count_ > 0) with_element(tensor_->dtype, [&](auto element) { perturb<decltype(element)>(); });
    lanes_ = segment_count_ = 0;
  }

 private:
  // Goes over to runs of another kind.
  void start(const Run& run) {
    flush();
    tensor_ = run.tensor;
    noise_ = run.noise;
    packing_ = run.packing;
    pitch_ = kGroup / packing_.units;
    used_ = tensor_->used;
    capacity_ = lanes_of_tile(run);
  }

  void add_segment(const Run& run, int64_t lane, int64_t count) {
    const int64_t groups = packing_.groups;
    for (int64_t i = 0; i < count; ++i) {
      const Counter<uint32_t> group = counter(tensor_->id, static_cast<uint64_t>((lane + i) * groups));
      low_[lanes_ + i] = group.low;
      high_[lanes_ + i] = group.high;
    }
    const int64_t end_unit = run.first + run.units, lane_end = (lane + count) * packing_.units;
    const int64_t unit = lane * packing_.units > run.first ? lane * packing_.units : run.first;
    const int64_t units = smaller(lane_end, end_unit) - unit;
    const int64_t row = lanes_ * packing_.units + unit - lane * packing_.units;
    segments_[segment_count_++] = {&run, unit - run.first, units, row};
    lanes_ += static_cast<int>(count);
  }

  Counter<U> groups(int lane) const {
    Counter<U> group;
    memcpy(&group.low, low_ + lane, sizeof group.low);
    memcpy(&group.high, high_ + lane, sizeof group.high);
    return group;
  }

  template <class T>
  void perturb() {
    using V = VectorOf<T>;
    using A = NumberOf<V>;
    if (noise_ == Noise::none) {
      for_each_segment<T>([&](auto to, int64_t) { scale_units(to, static_cast<A>(table_.grad_scale)); });
      return;
    }
    const Amounts<A> amounts(table_, *segments_[0].run);
    A* rows = reinterpret_cast<A*>(scratch_.rows);
    if (amounts.replaces) for_each_segment<T>([&](auto from, int64_t row) { read_rows(from, rows + row); });
    for (int lane = 0; lane < lanes_; lane += kLanes) draw<V>(lane, amounts, rows);
    with_grid<A>(tensor_->grid, [&](auto round) {
      for_each_segment<T>([&](auto to, int64_t row) { add_rows(to, amounts.scale, rows + row, round); });
    });
  }

  // Calls f(where its gradients are, where its values begin in rows).
  template <class T, class Function>
  void for_each_segment(Function f) const {
    for (int i = 0; i < segment_count_; ++i) {
      const Segment& segment = segments_[i];
      f(Destination<T>(*segment.run, segment.unit, segment.units), segment.row * tensor_->taps);
    }
  }

  // What is added to the units of kLanes lanes to rows, in which their gradients are, if they matter.
  template <class V>
  void draw(int lane, const Amounts<NumberOf<V>>& amounts, NumberOf<V>* rows) const {
    draw_normals(groups(lane), amounts.drawn);
    const int64_t count = packing_.units * tensor_->taps;
    V* x = reinterpret_cast<V*>(scratch_.gradients);
    V* y = reinterpret_cast<V*>(scratch_.columns);
    for (int slice = 0; slice < kSlices<V>; ++slice) {
      NumberOf<V>* row = rows + count * (lane + slice * kLanesOf<V>);
      if (amounts.replaces) to_columns(row, count, x);
      if (is_3x3(*tensor_, noise_)) {
        add_3x3(amounts, slice, x, y);
      } else if (noise_ == Noise::white) {
        add_white(amounts, slice, y);
      } else {
        add_in_basis(amounts, slice, x, y);
      }
      to_rows(y, count, row);
    }
  }

  // A unit of several groups has one after the other.
  void draw_normals(Counter<U> group, float amplitude) const {
    for (int64_t first = 0; first < used_; first += kGroup) {
      draw_.group(table_.stream, group, pitch_, smaller(used_ - first, kGroup), amplitude, scratch_.normals + first);
      advance(group, 1);
    }
  }

  template <class V>
  void add_3x3(const Amounts<NumberOf<V>>& amounts, int slice, const V* x, V* y) const {
    for (int64_t u = 0; u < packing_.units; ++u) {
      const V mean = amounts.replaces ? weighted_sum(x + u * 9, 9, amounts.mean) : V{};
      noise_3x3<V>(noise_, amounts, scratch_.normals + u * pitch_, slice, mean, y + u * 9);
    }
  }

  template <class V>
  void add_white(const Amounts<NumberOf<V>>& amounts, int slice, V* y) const {
    for (int64_t u = 0; u < packing_.units; ++u) {
      for (int64_t t = 0; t < tensor_->taps; ++t) {
        const V normal = slice_of<V>(scratch_.normals + u * pitch_ + t, slice);
        y[u * tensor_->taps + t] = amounts.varied ? normal * amounts.high : normal;
      }
    }
  }

  template <class V>
  void add_in_basis(const Amounts<NumberOf<V>>& amounts, int slice, const V* x, V* y) const {
    V* z = reinterpret_cast<V*>(kSlices<V> == 1 ? reinterpret_cast<float*>(scratch_.normals) : scratch_.coefficients);
    const Basis& basis = *tensor_->basis;
    for (int64_t u = 0; u < packing_.units; ++u) {
      const F* normals = scratch_.normals + u * pitch_;
      V* of_unit = z + u * pitch_;
      for (int64_t j = 0; amounts.varied && j < used_; ++j)
        of_unit[j] = slice_of<V>(normals + j, slice) * amounts.of(j, basis.high_dim);
      if (amounts.replaces) add_high_band(basis, amounts.removed, x + u * basis.taps, of_unit);
    }
    project_units(basis, packing_.units, used_, z, pitch_, y);
  }

  const RunTable& table_;
  const Draw& draw_;
  const Scratch& scratch_;

  // Of the runs in the tile.
  const RunTensor* tensor_ = nullptr;
  Noise noise_ = Noise::none;
  Packing packing_ = {};
  int64_t pitch_ = 0, used_ = 0, capacity_ = 0;

  alignas(64) uint32_t low_[kMostLanes] = {};
  alignas(64) uint32_t high_[kMostLanes] = {};
  Segment segments_[kMostLanes];
  int lanes_ = 0, segment_count_ = 0;
};

TIP_END_NAMESPACE
