// The kernel, compiled once per instruction set (see setup.py): draws noise for a tile of units and applies it.
//
// A lane of a vector draws whole groups of 16 words, for whole units. A tile is some vectors of lanes: a part of one
// run, or short runs of one tensor together. Noise goes from lanes to memory order by transposition in registers, so
// that gradients are read and written as streams; it is added only when the whole tile is drawn, because noise just
// stored in other pieces than it is loaded in would stall the loads. Whole vectors of 3x3 kernels need no tile: their
// noise goes from registers to gradients.
#include "cpu/perturb.h"

#include "cpu/simd.h"  // before core/, which uses its overloads

#include "core/generate.h"
#include "core/normals.h"
#include "cpu/apply.h"
#include "cpu/counters.h"
#include "cpu/pairs3x3.h"
#include "cpu/project.h"
#include "cpu/scratch.h"

TIP_BEGIN_NAMESPACE

namespace {

// Part of a run in a tile.
struct Segment {
  const Run* run;
  int64_t unit;   // first unit, counted from the run's first
  int64_t units;
  int64_t row;    // of the tile's rows, one for each unit
};

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <int kGenerator>
class Tile {
 public:
  Tile(const RunTable& table, const Scratch& scratch) : table_(table), scratch_(scratch), stream_(table.stream) {}

  // Adds lanes [begin, end) of a run, counted from its first lane.
  void add(const Run& run, int64_t begin, int64_t end) {
    if (run.tensor != tensor_ || run.noise != noise_) start(run);
    if (!in_pairs_) return add_lanes(run, begin, end);
    // A run's first and last lane may lack one of their two kernels.
    const int64_t first = begin == 0 && run.first % 2 != 0 ? 1 : begin;
    const int64_t last = smaller(end, (run.first + run.units) / 2 - run.first_lane());
    const int64_t vectors = last > first ? (last - first) / kLanes : 0;
    add_lanes(run, begin, first);
    if (vectors > 0) add_vectors(run, first, vectors);
    add_lanes(run, first + vectors * kLanes, end);
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
    const bool all_but_dc_3x3 = tensor_->basis != nullptr && tensor_->basis->all_but_dc_3x3;
    in_pairs_ = all_but_dc_3x3 && noise_ == Noise::band && !bare_ && (run.unit_stride == 1 || run.contiguous());
    high_amplitude_ = tensor_->std * (all_but_dc_3x3 ? kGain3x3 : 1.0f);
    low_amplitude_ = tensor_->floor_std * (all_but_dc_3x3 ? kDcGain3x3 : 1.0f);
  }

  void add_lanes(const Run& run, int64_t begin, int64_t end) {
    const int64_t first_lane = run.first_lane();
    while (begin < end) {
      const int64_t take = smaller(end - begin, capacity_ - lanes_);
      add_segment(run, first_lane + begin, take);
      begin += take;
      if (lanes_ == capacity_) flush();
    }
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

  // Perturbs `count` vectors of a run, whose lanes from `begin` on have both kernels.
  void add_vectors(const Run& run, int64_t begin, int64_t count) const {
    switch (tensor_->dtype) {
      case DType::f32: return add_vectors_of<float>(run, begin, count);
      case DType::bf16: return add_vectors_of<BFloat16>(run, begin, count);
      case DType::f16: return add_vectors_of<Half>(run, begin, count);
      case DType::f64: return;  // is always bare
    }
  }

  template <class T>
  void add_vectors_of(const Run& run, int64_t begin, int64_t count) const {
    if (run.unit_stride == 1) return add_pairs(ChannelsLast<T>{tensor_->tap_offsets}, run, begin, count);
    add_pairs(Contiguous<T>{}, run, begin, count);
  }

  // Gradients are fetched two vectors ahead, also those of the next run, where the processor cannot foresee them.
  template <class Layout>
  void add_pairs(Layout layout, const Run& run, int64_t begin, int64_t count) const {
    using T = typename Layout::Element;
    constexpr int64_t kAhead = 2;
    const Run& next_run = &run + 1 < table_.runs + table_.run_count ? *(&run + 1) : run;
    const T* next = reinterpret_cast<const T*>(next_run.data);
    const int64_t lane = run.first_lane() + begin;
    T* x = reinterpret_cast<T*>(run.data) + (2 * lane - run.first) * run.unit_stride;
    Counter<U> group = successive_groups(tensor_->id, static_cast<uint64_t>(lane));
    for (int64_t left = count; left > 0; --left) {
      layout.fetch(left > kAhead ? x + kAhead * Layout::kStep : next + (kAhead - left) * Layout::kStep);
      F z[kGroup], y[kPair3x3];
      draw_group(group, 0, used_, z);
      synthesize_3x3(z, y);  // not by project_units, whose counts are no constants: 3 % of the whole
      synthesize_3x3(z + pitch_, y + 9);
      layout.add(x, table_.grad_scale, y);
      x += Layout::kStep;
      advance(group, kLanes);
    }
  }

  Counter<U> groups(int lane) const {
    Counter<U> group;
    memcpy(&group.low, low_ + lane, sizeof group.low);
    memcpy(&group.high, high_ + lane, sizeof group.high);
    return group;
  }

  // Noise of the units of kLanes lanes to scratch_.rows: their K taps or, bare, the normals they are made of.
  void draw(int lane) {
    F shared[kGroup];
    F* z = packing_.groups > 1 ? scratch_.normals : shared;
    if (packing_.groups > 1) {
      draw_several(groups(lane), z);
    } else {
      draw_group(groups(lane), 0, used_, z);
    }
    F* y = scratch_.columns;
    if (bare_ || noise_ == Noise::white) {
      for (int64_t u = 0; u < packing_.units; ++u) memcpy(y + u * values_, z + u * pitch_, values_ * sizeof(F));
    } else {
      project_units(*tensor_->basis, packing_.units, used_, z, pitch_, y);
    }
    const int64_t count = packing_.units * values_;
    to_rows(y, count, scratch_.rows + lane * count);
  }

  // Units of several groups: one after the other.
  void draw_several(Counter<U> group, F* z) const {
    for (int64_t first = 0; first < used_; first += kGroup) {
      draw_group(group, first, smaller(used_ - first, kGroup), z + first);
      advance(group, 1);
    }
  }

  // The normals of one group: `used` of every pitch_; the first is value `first` of its unit.
  void draw_group(Counter<U> group, int64_t first, int64_t used, F* z) const {
    U words[kGroup];
    generate<kGenerator>(stream_, group, words);
    const bool mixed = noise_ == Noise::full;
    const float amplitude = bare_ || mixed ? 1.0f : noise_ == Noise::band ? high_amplitude_ : tensor_->floor_std;
    constexpr int64_t kStep = 2 * Pack<U>::kSize;
    for (int64_t w = 0; w < kGroup; w += kStep)
      if ((w & (pitch_ - 1)) < used) draw_pairs(words + w, amplitude, z + w);
    if (bare_ || !mixed) return;
    for (int64_t w = 0; w < kGroup; ++w) {
      const int64_t value = first + (w & (pitch_ - 1));
      z[w] *= value < tensor_->basis->high_dim ? high_amplitude_ : low_amplitude_;
    }
  }

  static TIP_HD void draw_pairs(const U* words, float amplitude, F* z) {
    Pack<U> first, second;
    Pack<F> even, odd;
    for (int i = 0; i < Pack<U>::kSize; ++i) first.v[i] = words[2 * i], second.v[i] = words[2 * i + 1];
    box_muller(first, second, amplitude, even, odd);
    for (int i = 0; i < Pack<U>::kSize; ++i) z[2 * i] = even.v[i], z[2 * i + 1] = odd.v[i];
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
  const Scratch& scratch_;
  const Stream stream_;

  // Of the runs in the tile.
  const RunTensor* tensor_ = nullptr;
  Noise noise_ = Noise::none;
  Packing packing_ = {};
  int64_t pitch_ = 0, used_ = 0, values_ = 0;
  float high_amplitude_ = 0, low_amplitude_ = 0;  // of a coefficient of the high band, and of the rest
  bool bare_ = false;
  bool in_pairs_ = false;  // whole vectors go from registers to gradients: cpu/pairs3x3.h
  int64_t capacity_ = 0;

  alignas(64) uint32_t low_[kMostLanes] = {};
  alignas(64) uint32_t high_[kMostLanes] = {};
  Segment segments_[kMostLanes];
  int lanes_ = 0, segment_count_ = 0;
};

template <int kGenerator>
void perturb_as(const RunTable& table, Portions& portions, const Scratch& scratch) {
  Tile<kGenerator> tile(table, scratch);
  const Run* run = table.runs;  // of those that end after what this thread has done
  int64_t run_begin = 0;
  for (int64_t begin, end; portions.take(begin, end);) {
    for (; run_begin < end; run_begin = run->end, ++run) {
      if (run->end > begin) {
        // A lane belongs to the portion in which its first group lies.
        const int64_t groups = run->packing.groups;
        const int64_t from = begin > run_begin ? begin - run_begin : 0;
        const int64_t to = smaller(end, run->end) - run_begin;
        tile.add(*run, (from + groups - 1) / groups, (to + groups - 1) / groups);
      }
      if (run->end > end) break;  // the rest of the run is another portion
    }
  }
  tile.flush();
}

}  // namespace

ScratchSizes scratch_sizes(const RunTable& table) { return sizes_of_scratch(table); }

void perturb_portions(const RunTable& table, Portions& portions, const ScratchSizes& sizes, float* memory) {
  const Scratch scratch(sizes, memory);
  with_generator(table.generator, [&](auto known) { perturb_as<decltype(known)::value>(table, portions, scratch); });
}

TIP_END_NAMESPACE
