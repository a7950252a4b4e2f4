// Kernels and elements of any strides: their noise goes through rows in scratch memory.
//
// A tile is some vectors of lanes: a part of one run, or short runs of one tensor together. Noise goes from lanes to
// rows by transposition in registers, so that gradients are read and written as streams; it is added only when the whole
// tile is drawn, because noise just stored in other pieces than it is loaded in would stall the loads.
#pragma once

#include "cpu/apply.h"

#include "cpu/amounts.h"
#include "cpu/draw.h"
#include "cpu/kernel3x3.h"
#include "cpu/project.h"
#include "cpu/scratch.h"

TIP_BEGIN_NAMESPACE

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Part of a run in a tile.
struct Segment {
  const Run* run;
  int64_t unit;   // first unit, counted from the run's first
  int64_t units;
  int64_t row;    // of the tile's rows, one for each unit
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
    if (segment_count_ == 0) return;
    if (noise_ != Noise::none)
      for (int lane = 0; lane < lanes_; lane += kLanes) draw(lane);
    for (int i = 0; i < segment_count_; ++i) apply(segments_[i]);
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
    // float64 gradients, and keep != 1, take a unit at a time from its bare normals.
    bare_ = noise_ != Noise::none && (tensor_->dtype == DType::f64 || (table_.keep != 1.0 && noise_ != Noise::white));
    values_ = bare_ ? used_ : tensor_->taps;
    capacity_ = lanes_of_tile(run);
    amounts_ = Amounts(run);
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

  // Noise of the units of kLanes lanes to scratch_.rows: their K taps or, bare, the normals they are made of.
  void draw(int lane) {
    F* z = scratch_.normals;
    draw_normals(groups(lane), z);
    F* y = scratch_.columns;
    if (bare_ || noise_ == Noise::white) {
      for (int64_t u = 0; u < packing_.units; ++u) memcpy(y + u * values_, z + u * pitch_, values_ * sizeof(F));
    } else if (tensor_->basis->all_but_dc_3x3) {
      for (int64_t u = 0; u < packing_.units; ++u) kernel_noise(noise_, amounts_, z + u * pitch_, y + u * 9);
    } else {
      if (amounts_.mixed) mix(z);
      project_units(*tensor_->basis, packing_.units, used_, z, pitch_, y);
    }
    const int64_t count = packing_.units * values_;
    to_rows(y, count, scratch_.rows + lane * count);
  }

  // A unit of several groups has one after the other.
  void draw_normals(Counter<U> group, F* z) const {
    const float amplitude = bare_ ? 1.0f : amounts_.drawn;
    for (int64_t first = 0; first < used_; first += kGroup) {
      draw_.group(table_.stream, group, pitch_, smaller(used_ - first, kGroup), amplitude, z + first);
      advance(group, 1);
    }
  }

  void mix(F* z) const {
    for (int64_t u = 0; u < packing_.units; ++u)
      for (int64_t j = 0; j < used_; ++j)
        z[u * pitch_ + j] *= j < tensor_->basis->high_dim ? amounts_.high : amounts_.low;
  }

  void apply(const Segment& part) {
    const float* rows = scratch_.rows + part.row * values_;
    switch (tensor_->dtype) {
      case DType::f32: return apply_as<float, float>(part, rows);
      case DType::f64: return apply_as<double, double>(part, rows);
      case DType::bf16: return apply_as<BFloat16, float>(part, rows);
      case DType::f16: return apply_as<Half, float>(part, rows);
    }
  }

  template <class T, class A>
  void apply_as(const Segment& part, const float* rows) {
    const Destination<T> to(*part.run, part.unit, part.units);
    if (noise_ == Noise::none) return scale_units(to, static_cast<A>(table_.grad_scale));
    if (bare_) return perturb_units<T, A>(to, table_, *part.run, rows, reinterpret_cast<A*>(scratch_.unit));
    if constexpr (sizeof(T) <= sizeof(float)) {  // float64 is always bare
      const Grid<float> grid(tensor_->grid);
      grid ? add_rows(to, table_.grad_scale, rows, grid) : add_rows(to, table_.grad_scale, rows, NoGrid());
    }
  }

  const RunTable& table_;
  const Draw& draw_;
  const Scratch& scratch_;

  // Of the runs in the tile.
  const RunTensor* tensor_ = nullptr;
  Noise noise_ = Noise::none;
  Packing packing_ = {};
  int64_t pitch_ = 0, used_ = 0, values_ = 0;
  Amounts amounts_ = {};
  bool bare_ = false;
  int64_t capacity_ = 0;

  alignas(64) uint32_t low_[kMostLanes] = {};
  alignas(64) uint32_t high_[kMostLanes] = {};
  Segment segments_[kMostLanes];
  int lanes_ = 0, segment_count_ = 0;
};

TIP_END_NAMESPACE
