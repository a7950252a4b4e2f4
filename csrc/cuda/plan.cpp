#include "cuda/plan.h"

#include <algorithm>

#include "core/units.h"
#include "cuda/any_kernel.h"
#include "cuda/elements.h"
#include "cuda/kernel3x3.h"

namespace tip {

namespace {

// Elements that are worth a block: its start costs some hundred instructions, but only large models have blocks to
// spare. This many are four for each place that the largest GPUs have for them.
int64_t elements_of_block(const Inputs& inputs) {
  constexpr int64_t kEnoughBlocks = 3200;
  int64_t elements = 0;
  for (const TensorInput& tensor : inputs.tensors) {
    if (!inputs.changes(tensor)) continue;
    int64_t own = 1;
    for (int64_t dim = 0; dim < tensor.shape.dims; ++dim) own *= tensor.shape.sizes[dim];
    elements += own;
  }
  return elements / kEnoughBlocks;
}

class TensorPlan {
 public:
  TensorPlan(const Inputs& inputs, const TensorInput& tensor, int64_t wanted, int passes)
      : inputs_(inputs), tensor_(tensor), shape_(tensor.shape), wanted_(wanted), passes_(passes) {
    entry_.data = tensor.data;
    entry_.dtype = tensor.dtype;
    entry_.id = static_cast<int32_t>(tensor.id);
    entry_.first = first_unit(tensor);
    if (tensor.basis >= 0) {
      plan_kernels(inputs.bases[tensor.basis]);
    } else {
      plan_elements();
    }
    plan_runs();
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
  void plan_kernels(const BasisInput& basis) {
    rows_.push_back({shape_.sizes[0], shape_.strides[0], tensor_.shard.kernels});
    taps_ = axes_of(shape_, 2);
    entry_.taps = static_cast<int32_t>(basis.taps);
    entry_.high_dim = static_cast<int32_t>(basis.high_dim);
    entry_.basis = basis.matrix;
    entry_.amplitudes = tensor_.amplitudes;
    entry_.row_units = shape_.sizes[1];
    entry_.unit_stride = shape_.strides[1];
    entry_.first_channel = tensor_.shard.first_channel;
    const bool ranked = tensor_.selected > 0 && tensor_.selected < tensor_.channels;
    entry_.scores = ranked ? tensor_.scores : nullptr;
    entry_.channels = tensor_.channels;
    entry_.selected = tensor_.selected;
    entry_.path = path();
  }

  Path path() const {
    const bool additive = !inputs_.replaces() && tensor_.dtype != DType::f64;
    const int64_t *size = shape_.sizes, *stride = shape_.strides;
    const bool is_3x3 = shape_.dims == 4 && size[2] == 3 && size[3] == 3;
    if (!additive || !is_3x3 || entry_.high_dim != 8) return Path::any;
    const bool is_whole = tensor_.shard.kernels == size[1];
    const bool dense = stride[3] == 1 && stride[2] == 3 && (stride[1] == 9 || size[1] == 1);
    const bool rows_follow = size[0] == 1 || !is_whole || stride[0] == 9 * size[1];
    if (dense && rows_follow) return Path::dense3x3;
    // Two kernels of a thread are then two neighbors in one row, at an address that is a multiple of two elements.
    const bool even = ((stride[0] | stride[3] | size[1] | entry_.first | tensor_.shard.kernels) & 1) == 0;
    const bool even_taps = stride[2] == 3 * stride[3];
    const bool aligned = reinterpret_cast<uintptr_t>(tensor_.data) % (2 * bytes_of(tensor_.dtype)) == 0;
    return stride[1] == 1 && even_taps && even && aligned ? Path::pairs3x3 : Path::any;
  }

  void plan_elements() {
    const std::vector<Axis> axes = element_axes(tensor_);
    rows_.assign(axes.begin() + 1, axes.end());
    entry_.taps = 1;
    entry_.row_units = axes[0].size;
    entry_.unit_stride = axes[0].stride;
    // Rows that lie apart have tiles of their own.
    const bool long_rows = rows_.empty() || entry_.row_units >= kWarp * kGroup;
    const bool dense = entry_.unit_stride == 1 && long_rows && tensor_.dtype != DType::f64;
    entry_.path = dense ? Path::elements : Path::any;
  }

  void plan_runs() {
    bool follow = true;
    int64_t units = entry_.row_units;
    for (const Axis& axis : rows_) {
      follow = follow && (axis.size == 1 || axis.index_stride == units) && entry_.path != Path::elements;
      units *= axis.size;
    }
    entry_.run_units = follow ? units : entry_.row_units;
    runs_ = units / entry_.run_units;
  }

  void plan_tiles() {
    const Packing packing = packing_of(used_words(entry_.taps, entry_.high_dim, inputs_.has_floor()));
    entry_.lane_units = static_cast<int32_t>(packing.units);
    entry_.lane_groups = static_cast<int32_t>(packing.groups);
    entry_.tile_lanes = tile_lanes();
    // Where runs begin inside lanes differently, each gets the tiles that the worst of them needs.
    const int64_t before = runs_ == 1 ? entry_.first % entry_.lane_units : entry_.lane_units - 1;
    const int64_t lanes = (before + entry_.run_units + entry_.lane_units - 1) / entry_.lane_units;
    entry_.tiles_per_run = (lanes + entry_.tile_lanes - 1) / entry_.tile_lanes;
    tiles_ = runs_ * entry_.tiles_per_run;
    shared_bytes_ = shared_bytes();
  }

  int64_t shared_bytes() const {
    if (entry_.path == Path::any) return AnyKernelMemory(entry_, inputs_.has_floor(), inputs_.replaces()).bytes();
    if (entry_.path == Path::elements) return kElementsSharedBytes;
    return shared_bytes_3x3(entry_.path);
  }

  int32_t tile_lanes() const {
    int64_t lanes = std::max<int64_t>(1, passes() * kThreads * thread_lanes() / entry_.lane_groups);
    if (entry_.basis) lanes = std::min(lanes, (kRowsPerTile - 1) * entry_.row_units / entry_.lane_units);
    // Whole 16-byte words of small kernels, so that all tiles of a tensor are aligned alike.
    return static_cast<int32_t>(lanes >= 8 ? lanes / 8 * 8 : std::max<int64_t>(1, lanes));
  }

  // Lanes of a thread in a pass.
  int64_t thread_lanes() const {
    const bool is_3x3 = entry_.path == Path::dense3x3 || entry_.path == Path::pairs3x3;
    return is_3x3 ? kThreadKernels / entry_.lane_units : 1;
  }

  int64_t passes() const {
    constexpr int64_t kMost = 8;
    if (entry_.path == Path::any) return 1;
    if (passes_ > 0) return passes_;
    return std::clamp<int64_t>(wanted_ / (kThreads * thread_lanes() * entry_.lane_units * entry_.taps), 1, kMost);
  }

  const Inputs& inputs_;
  const TensorInput& tensor_;
  const Shape& shape_;
  const int64_t wanted_;  // elements of a block
  const int passes_;
  Entry entry_ = {};
  std::vector<Axis> rows_, taps_;
  int64_t runs_ = 1, tiles_ = 0, shared_bytes_ = 0;
};

}  // namespace

std::vector<PlannedTensor> plan_tensors(const Inputs& inputs, int passes) {
  const int64_t wanted = elements_of_block(inputs);
  std::vector<PlannedTensor> planned;
  planned.reserve(inputs.tensors.size());
  for (const TensorInput& tensor : inputs.tensors)
    if (inputs.changes(tensor)) planned.push_back(TensorPlan(inputs, tensor, wanted, passes).result());
  return planned;
}

}  // namespace tip
