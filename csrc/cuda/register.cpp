// Registers the CUDA kernels with torch. Host code, compiled against any torch: what only a CUDA torch has is found
// when the library is loaded.
#define USE_CUDA
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <mutex>
#include <unordered_map>

#include "cuda/launch.h"
#include "op/check_arguments.h"

namespace tip {

namespace {

// The device of a call's tensors, current while it lasts, and torch's current stream there.
class Device {
 public:
  explicit Device(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    set_device(tensor.get_device_index());
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }
  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

// A state's counter of blocks. Two launches that may overlap have two states, hence two tickets, until kTickets
// states have been used; memory that is used again has its ticket back at zero.
int32_t ticket_of(const Tensor& state) {
  static std::mutex mutex;
  static std::unordered_map<const void*, int32_t> tickets;
  const std::lock_guard<std::mutex> lock(mutex);
  const int32_t next = static_cast<int32_t>(tickets.size() % kTickets);
  return tickets.emplace(state.const_data_ptr(), next).first->second;
}

void perturb_(std::vector<Tensor> grads, std::vector<Tensor> scores, std::vector<int64_t> selected,
              std::vector<int64_t> tensor_ids, std::vector<int64_t> basis_ids, std::vector<Tensor> bases,
              std::vector<int64_t> high_dims, Tensor std, std::optional<Tensor> floor_std,
              std::optional<Tensor> grad_scale, Tensor state, double keep, int64_t rounds,
              std::optional<std::vector<int64_t>> shards) {
  const Views checked = check_perturb({grads, scores, selected, tensor_ids, basis_ids, bases, high_dims, std,
                                       floor_std, grad_scale, state, keep, rounds, shards});
  std::vector<TensorView> views;
  views.reserve(grads.size());
  for (size_t i = 0; i < grads.size(); ++i) {
    const View& grad = checked.grads[i];
    if (grad.count == 0) continue;
    TensorView view = {};
    view.data = grad.data;
    view.dtype = dtype_of(grad);
    view.sizes.assign(grad.sizes, grad.sizes + grad.dims);
    view.strides.assign(grad.strides, grad.strides + grad.dims);
    view.id = tensor_ids[i];
    view.kernels_per_channel = grad.size(1);
    if (shards) {
      const int64_t* shard = shards->data() + 3 * i;
      view.first_channel = shard[0], view.first_kernel = shard[1], view.kernels_per_channel = shard[2];
    }
    if (basis_ids[i] >= 0) {
      view.basis = reinterpret_cast<const double*>(checked.bases[basis_ids[i]].data);
      view.high_dim = high_dims[basis_ids[i]];
      view.selected = selected[i];
      view.scores = reinterpret_cast<const float*>(checked.scores[i].data);
      view.score_count = checked.scores[i].count;
      view.score_stride = 1;
    }
    views.push_back(view);
  }
  Call call = {};
  call.state = reinterpret_cast<int64_t*>(checked.state.data);
  call.std = reinterpret_cast<const float*>(checked.std.data);
  call.floor_std = floor_std ? reinterpret_cast<const float*>(checked.floor_std.data) : nullptr;
  call.grad_scale = grad_scale ? reinterpret_cast<const float*>(checked.grad_scale.data) : nullptr;
  call.keep = keep;
  call.ticket = ticket_of(state);
  const Device device(state);
  launch_perturb(static_cast<int>(rounds), call,
                 plan_tensors(views, {floor_std.has_value(), grad_scale.has_value(), keep != 1.0, 0}),
                 device.stream());
}

void words_(Tensor out, Tensor state, int64_t tensor_id, int64_t first_position, int64_t rounds) {
  const View view = check_words(out, state, tensor_id, first_position, rounds);
  std::vector<Axis> axes;
  int64_t index_stride = 1;
  for (int64_t dim = view.dims; dim-- > 0; index_stride *= view.sizes[dim])
    append_axis(axes, {view.sizes[dim], view.strides[dim], index_stride});
  if (axes.size() > kMostAxes) refuse("expected out of at most ", kMostAxes, " dimensions that lie apart, got more");
  WordsOut to = {reinterpret_cast<int32_t*>(view.data), view.count, static_cast<int32_t>(axes.size()), {}};
  std::copy(axes.begin(), axes.end(), to.axis);
  const Device device(state);
  launch_words(static_cast<int>(rounds), static_cast<const int64_t*>(state.const_data_ptr()),
               static_cast<uint32_t>(tensor_id), first_position, to, device.stream());
}

Tensor channel_saliency(Tensor tensor) {
  const View view = check_activation_grad(tensor);
  if (view.sizes[1] > INT32_MAX) refuse("expected at most 2**31 - 1 channels, got ", view.sizes[1]);
  ActivationGrad grad = {};
  grad.dtype = dtype_of(view);
  grad.data = view.data;
  grad.samples = view.sizes[0], grad.channels = view.sizes[1];
  grad.sample_stride = view.strides[0], grad.channel_stride = view.strides[1];
  std::vector<Axis> space;
  grad.space = view.count > 0 ? 1 : 0;
  if (view.count > 0) {
    for (const Dimension& dim : space_of(view)) {
      append_axis(space, {dim.size, dim.stride, grad.space});
      grad.space *= dim.size;
    }
  }
  grad.inverse_space = 1.0 / static_cast<double>(grad.space);
  if (space.empty()) space.push_back({1, 1, 1});
  STD_TORCH_CHECK(space.size() <= kMostAxes, "expected at most ", kMostAxes,
                  " spatial dimensions that lie apart, got ", space.size());
  grad.axes = static_cast<int32_t>(space.size());
  std::copy(space.begin(), space.end(), grad.axis);
  const Device device(tensor);
  constexpr auto kFloat = torch::headeronly::ScalarType::Float;
  Tensor alpha = torch::stable::new_empty(tensor, {grad.samples, grad.channels}, kFloat);
  Tensor scores = torch::stable::new_empty(tensor, {grad.channels}, kFloat);
  launch_saliency(grad, static_cast<float*>(alpha.mutable_data_ptr()), static_cast<float*>(scores.mutable_data_ptr()),
                  device.stream());
  return scores;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tip_kernels, CUDA, m) {
  m.impl("perturb_", TORCH_BOX(&perturb_));
  m.impl("channel_saliency", TORCH_BOX(&channel_saliency));
  m.impl("words_", TORCH_BOX(&words_));
}

}  // namespace tip
