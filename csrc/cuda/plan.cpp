#include "cuda/plan.h"

#include <algorithm>

#include "cuda/any.h"
#include "cuda/three.h"

namespace tip {

namespace {

int64_t size_of(const TensorView& tensor, size_t dim) { return dim < tensor.sizes.size() ? tensor.sizes[dim] : 1; }
int64_t stride_of(const TensorView& tensor, size_t dim) {
  return dim < tensor.strides.size() ? tensor.strides[dim] : 1;
}

int64_t elements_of(const TensorView& tensor) {
  int64_t count = 1;
  for (const int64_t size : tensor.sizes) count *= size;
  return count;
}

// A block's start is worth some hundred instructions, but large models only have blocks to spare.
int rounds_that_pay(const std::vector<TensorView>& tensors) {
  constexpr int64_t kMost = 8, kEnoughBlocks = 8192, kBlockElements = kThreads * 18;
  int64_t elements = 0;
  for (const TensorView& tensor : tensors)
    if (tensor.basis) elements += elements_of(tensor);
  return static_cast<int>(std::clamp<int64_t>(elements / kBlockElements / kEnoughBlocks, 1, kMost));
}

class TensorPlan {
 public:
  TensorPlan(const TensorView& view, const Options& options) : view_(view), options_(options) {
    entry_.data = view.data;
    entry_.dtype = view.dtype;
    entry_.id = static_cast<int32_t>(view.id);
    entry_.high_dim = static_cast<int32_t>(view.high_dim);
    entry_.basis = view.basis;
    if (view.basis) {
      plan_kernels();
    } else {
      plan_elements();
    }
    plan_spans();
    plan_tiles();
  }

  PlannedTensor result() const {
    PlannedTensor planned = {entry_, rows_, tiles_, shared_bytes_};
    planned.axes.insert(planned.axes.end(), taps_.begin(), taps_.end());
    planned.entry.row_axes = static_cast<uint8_t>(rows_.size());
    planned.entry.tap_axes = static_cast<uint8_t>(taps_.size());
    return planned;
  }

 private:
  void plan_kernels() {
    rows_.push_back({size_of(view_, 0), stride_of(view_, 0), view_.kernels_per_channel});
    entry_.taps = 1;
    for (size_t dim = 2; dim < view_.sizes.size(); ++dim) {
      taps_.push_back({view_.sizes[dim], view_.strides[dim], 0});
      entry_.taps *= static_cast<int32_t>(view_.sizes[dim]);
    }
    entry_.row_units = view_.sizes[1];
    entry_.unit_stride = view_.strides[1];
    entry_.first = view_.first_channel * view_.kernels_per_channel + view_.first_kernel;
    entry_.first_channel = view_.first_channel;
    const bool ranked = view_.selected > 0 && view_.selected < view_.score_count;
    entry_.scores = ranked ? view_.scores : nullptr;
    entry_.score_stride = view_.score_stride;
    entry_.channels = view_.score_count;
    entry_.selected = view_.selected;
    entry_.path = path();
    merge_taps();
  }

  void merge_taps() {
    std::vector<Axis> merged;  // innermost first
    int64_t index_stride = 1;
    for (size_t i = taps_.size(); i-- > 0;) {
      append_axis(merged, {taps_[i].size, taps_[i].stride, index_stride});
      index_stride *= taps_[i].size;
    }
    if (merged.empty()) merged.push_back({1, 1, 1});
    taps_ = merged;
  }

  Path path() const {
    const bool additive = !options_.floor && !options_.replaces && view_.dtype != DType::f64;
    const bool is_3x3 = view_.sizes.size() == 4 && view_.sizes[2] == 3 && view_.sizes[3] == 3;
    if (!additive || !is_3x3 || view_.high_dim != 8) return Path::any;
    const std::vector<int64_t>& stride = view_.strides;
    const bool dense = stride[3] == 1 && stride[2] == 3 && (stride[1] == 9 || view_.sizes[1] == 1);
    const bool rows_follow = view_.sizes[0] == 1 || !is_whole() || stride[0] == 9 * view_.sizes[1];
    if (dense && rows_follow) return Path::dense3x3;
    const int64_t first = view_.first_channel * view_.kernels_per_channel + view_.first_kernel;
    // Two kernels of a lane are then two neighbors in one row, at an address that is a multiple of two elements.
    const bool even = ((stride[0] | stride[3] | view_.sizes[1] | first | view_.kernels_per_channel) & 1) == 0;
    const bool even_taps = stride[2] == 3 * stride[3];
    const bool aligned = reinterpret_cast<uintptr_t>(view_.data) % (2 * bytes_of(view_.dtype)) == 0;
    return stride[1] == 1 && even_taps && even && aligned ? Path::pairs3x3 : Path::any;
  }

  bool is_whole() const { return view_.kernels_per_channel == view_.sizes[1]; }

  void plan_elements() {
    std::vector<Axis> axes;
    int64_t taps = 1;
    for (size_t dim = 2; dim < view_.sizes.size(); ++dim) taps *= view_.sizes[dim];
    int64_t index_stride = 1;
    for (size_t dim = std::max<size_t>(view_.sizes.size(), 2); dim-- > 0;) {
      if (dim == 1) index_stride = taps;
      if (dim == 0) index_stride = taps * view_.kernels_per_channel;
      append_axis(axes, {size_of(view_, dim), stride_of(view_, dim), index_stride});
      index_stride *= size_of(view_, dim);
    }
    if (axes.empty() || axes[0].index_stride != 1) axes.insert(axes.begin(), {1, 1, 1});
    rows_.assign(axes.begin() + 1, axes.end());
    entry_.path = Path::any;
    entry_.taps = 1;
    entry_.row_units = axes[0].size;
    entry_.unit_stride = axes[0].stride;
    entry_.first = (view_.first_channel * view_.kernels_per_channel + view_.first_kernel) * taps;
  }

  void plan_spans() {
    bool follow = true;
    int64_t units = entry_.row_units;
    for (const Axis& axis : rows_) {
      follow = follow && (axis.size == 1 || axis.index_stride == units);
      units *= axis.size;
    }
    entry_.span_units = follow ? units : entry_.row_units;
    spans_ = units / entry_.span_units;
  }

  void plan_tiles() {
    const int64_t used = options_.floor || !entry_.basis ? entry_.taps : entry_.high_dim;
    const int64_t words = pitch(used);
    entry_.lane_units = static_cast<int32_t>(words <= kGroup ? kGroup / words : 1);
    entry_.lane_groups = static_cast<int32_t>(words <= kGroup ? 1 : words / kGroup);
    entry_.tile_lanes = tile_lanes();
    // Where spans begin inside lanes differently, each gets the tiles that the worst of them needs.
    const int64_t before = spans_ == 1 ? entry_.first % entry_.lane_units : entry_.lane_units - 1;
    const int64_t lanes = (before + entry_.span_units + entry_.lane_units - 1) / entry_.lane_units;
    entry_.tiles_per_span = (lanes + entry_.tile_lanes - 1) / entry_.tile_lanes;
    tiles_ = spans_ * entry_.tiles_per_span;
    shared_bytes_ = entry_.path == Path::any ? AnyLayout(entry_, options_.floor, options_.replaces).bytes()
                                             : three_shared_bytes(entry_.path);
  }

  int32_t tile_lanes() const {
    const int64_t rounds = entry_.path == Path::any ? 1 : options_.rounds;
    int64_t lanes = std::max<int64_t>(1, rounds * kThreads / entry_.lane_groups);
    if (entry_.basis) lanes = std::min(lanes, (kRowsPerTile - 1) * entry_.row_units / entry_.lane_units);
    // Whole 16-byte words of small kernels, so that all tiles of a tensor are aligned alike.
    return static_cast<int32_t>(lanes >= 4 ? lanes / 4 * 4 : std::max<int64_t>(1, lanes));
  }

  const TensorView& view_;
  const Options& options_;
  Entry entry_ = {};
  std::vector<Axis> rows_, taps_;
  int64_t spans_ = 1, tiles_ = 0, shared_bytes_ = 0;
};

}  // namespace

void append_axis(std::vector<Axis>& axes, Axis next) {
  if (next.size == 1) return;
  if (!axes.empty()) {
    Axis& last = axes.back();
    if (last.stride * last.size == next.stride && last.index_stride * last.size == next.index_stride) {
      last.size *= next.size;
      return;
    }
  }
  axes.push_back(next);
}

std::vector<PlannedTensor> plan_tensors(const std::vector<TensorView>& tensors, Options options) {
  if (options.rounds == 0) options.rounds = rounds_that_pay(tensors);
  std::vector<PlannedTensor> planned;
  planned.reserve(tensors.size());
  for (const TensorView& tensor : tensors) {
    const bool channels_differ = tensor.basis && tensor.selected > 0;
    if (elements_of(tensor) == 0 || (!channels_differ && !options.floor && !options.scaled)) continue;
    planned.push_back(TensorPlan(tensor, options).result());
  }
  return planned;
}

}  // namespace tip
