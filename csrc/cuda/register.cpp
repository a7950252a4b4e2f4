// Registers the CUDA kernels with torch. Host code, compiled against any torch: what only a CUDA torch has is found
// when the library is loaded.
#define USE_CUDA
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <mutex>
#include <unordered_map>

#include "cpu/tensors.h"
#include "cuda/launch.h"

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

std::vector<int64_t> list_of(const Tensor& tensor, bool strides) {
  std::vector<int64_t> values;
  values.reserve(tensor.dim());
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) values.push_back(strides ? tensor.stride(dim) : tensor.size(dim));
  return values;
}

void perturb_(std::vector<Tensor> grads, std::vector<Tensor> scores, std::vector<int64_t> selected,
              std::vector<int64_t> tensor_ids, std::vector<int64_t> basis_ids, std::vector<Tensor> bases,
              std::vector<int64_t> high_dims, Tensor std, std::optional<Tensor> floor_std,
              std::optional<Tensor> grad_scale, Tensor state, double keep, int64_t rounds,
              std::optional<std::vector<int64_t>> shards) {
  std::vector<TensorView> views;
  views.reserve(grads.size());
  for (size_t i = 0; i < grads.size(); ++i) {
    TensorView view = {};
    view.data = static_cast<char*>(grads[i].mutable_data_ptr());
    view.dtype = dtype_of(grads[i]);
    view.sizes = list_of(grads[i], false);
    view.strides = list_of(grads[i], true);
    view.id = tensor_ids[i];
    view.kernels_per_channel = view.sizes.size() > 1 ? view.sizes[1] : 1;
    if (shards) {
      const int64_t* shard = shards->data() + 3 * i;
      view.first_channel = shard[0], view.first_kernel = shard[1], view.kernels_per_channel = shard[2];
    }
    if (basis_ids[i] >= 0) {
      view.basis = bases[basis_ids[i]].const_data_ptr<double>();
      view.high_dim = high_dims[basis_ids[i]];
      view.selected = selected[i];
      view.scores = scores[i].const_data_ptr<float>();
      view.score_count = scores[i].size(0);
      view.score_stride = scores[i].stride(0);
    }
    views.push_back(view);
  }
  Call call = {};
  call.state = static_cast<int64_t*>(state.mutable_data_ptr());
  call.std = std.const_data_ptr<float>();
  call.floor_std = floor_std ? floor_std->const_data_ptr<float>() : nullptr;
  call.grad_scale = grad_scale ? grad_scale->const_data_ptr<float>() : nullptr;
  call.keep = keep;
  call.ticket = ticket_of(state);
  const Device device(state);
  launch_perturb(static_cast<int>(rounds), call,
                 plan_tensors(views, {floor_std.has_value(), grad_scale.has_value(), call.keep != 1.0, 0}),
                 device.stream());
}

void words_(Tensor out, Tensor state, int64_t tensor_id, int64_t first_position, int64_t rounds) {
  const Device device(state);
  launch_words(static_cast<int>(rounds), static_cast<const int64_t*>(state.const_data_ptr()),
               static_cast<uint32_t>(tensor_id), first_position, out.numel(),
               static_cast<int32_t*>(out.mutable_data_ptr()), device.stream());
}

Tensor channel_saliency(Tensor tensor) {
  ActivationGrad grad = {};
  grad.dtype = dtype_of(tensor);
  grad.data = static_cast<const char*>(tensor.const_data_ptr());
  grad.samples = tensor.size(0), grad.channels = tensor.size(1);
  grad.sample_stride = tensor.stride(0), grad.channel_stride = tensor.stride(1);
  std::vector<Axis> space;
  grad.space = 1;
  for (int64_t dim = tensor.dim() - 1; dim >= 2; --dim) {
    append_axis(space, {tensor.size(dim), tensor.stride(dim), grad.space});
    grad.space *= tensor.size(dim);
  }
  grad.inverse_space = 1.0 / static_cast<double>(grad.space);
  if (space.empty()) space.push_back({1, 1, 1});
  STD_TORCH_CHECK(space.size() <= kMostSpaceAxes, "expected at most ", kMostSpaceAxes,
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
