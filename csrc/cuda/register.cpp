// The ops on CUDA tensors, registered with torch. Host code, compiled and linked against any torch: what only a CUDA
// torch has is looked for at the first call.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <utility>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "op/check_clip.h"
#include "op/inputs.h"

namespace tip {

namespace {

using CurrentStream = AOTITorchError(int32_t device, void** stream);

// torch's function of this kind, in the library that a CUDA torch has loaded long before.
CurrentStream* find_current_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* found = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
  if (!found) refuse("expected a torch with CUDA, found no libtorch_cuda that knows its current stream");
  return reinterpret_cast<CurrentStream*>(found);
}

// The device of a call's tensors, current while it lasts, and torch's current stream there.
class Device {
 public:
  explicit Device(const Tensor& tensor) : current_stream_(known_current_stream()), guard_(tensor.get_device_index()) {
    set_device(tensor.get_device_index());
    check_torch(current_stream_(tensor.get_device_index(), &stream_));
  }
  void* stream() const { return stream_; }

 private:
  static CurrentStream* known_current_stream() {
    static CurrentStream* const found = find_current_stream();
    return found;
  }

  CurrentStream* current_stream_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

// Axes for a kernel, of which it has room for kMostAxes.
int32_t copy_axes(const std::vector<Axis>& axes, Axis* to, const char* whose) {
  if (axes.size() > kMostAxes)
    refuse("expected at most ", kMostAxes, " dimensions of ", whose, " that lie apart, got ", axes.size());
  std::copy(axes.begin(), axes.end(), to);
  return static_cast<int32_t>(axes.size());
}

void perturb(const Arguments& arguments) {
  const Inputs inputs = checked_inputs(arguments);
  std::vector<PlannedTensor> tensors = plan_tensors(inputs);
  const Device device(arguments.state);
  const int64_t words = ranking_words(tensors);
  if (words == 0) return launch_perturb(inputs, std::move(tensors), nullptr, device.stream());
  // Given back when the call returns: for what this stream does later.
  Tensor ranking = torch::stable::new_empty(arguments.state, {words}, torch::headeronly::ScalarType::Int);
  launch_perturb(inputs, std::move(tensors), static_cast<uint32_t*>(ranking.mutable_data_ptr()), device.stream());
}

void words_(Tensor out, Tensor state, int64_t tensor_id, int64_t first_position, int64_t generator) {
  const View view = check_words(out, state, tensor_id, first_position, generator);
  WordsOut to = {data_of<int32_t>(view), view.count, 0, {}};
  to.axes = copy_axes(axes_of(view, 0), to.axis, "out");
  const Device device(state);
  launch_words(static_cast<int>(generator), static_cast<const int64_t*>(state.const_data_ptr()),
               static_cast<uint32_t>(tensor_id), first_position, to, device.stream());
}

Tensor channel_saliency(Tensor tensor) {
  const View view = check_activation_grad(tensor);
  if (view.sizes[1] > INT32_MAX) refuse("expected at most 2**31 - 1 channels, got ", view.sizes[1]);
  const std::vector<Axis> space = space_axes(view);
  ActivationGradByAxes grad = {activation_grad_of(view, space), 0, 0, 0, {}};
  grad.axes = copy_axes(space, grad.axis, "space");
  cut_space(grad);
  const Device device(tensor);
  Tensor sums = torch::stable::new_empty(tensor, {sums_bytes(grad)}, torch::headeronly::ScalarType::Byte);
  Tensor scores = torch::stable::new_empty(tensor, {grad.channels}, torch::headeronly::ScalarType::Float);
  launch_saliency(grad, sums.mutable_data_ptr(), static_cast<float*>(scores.mutable_data_ptr()), device.stream());
  return scores;
}

// As a call that scales every element: what it would touch is what there is to sum. Forms stand where bases do, so that
// tensors with one are planned kernel by kernel or, where it is a number, element by element.
Inputs inputs_of(const ClipViews& views, const float* scale) {
  static const float one = 1;  // never read: that it is there makes the plan
  Inputs inputs = {};
  for (const View& form : views.forms)
    inputs.bases.push_back({data_of<const double>(form), form.sizes[0], form.sizes[0]});
  for (size_t i = 0; i < views.grads.size(); ++i) {
    const View& grad = views.grads[i];
    TensorInput tensor = {};
    tensor.data = grad.data, tensor.dtype = dtype_of(grad), tensor.shape = grad;
    tensor.basis = views.taps(i) > 1 ? views.form_ids[i] : -1;
    tensor.shard = {0, 0, grad.size(1)};
    inputs.tensors.push_back(tensor);
  }
  inputs.state = data_of<int64_t>(views.state);
  inputs.grad_scale = scale ? scale : &one;
  inputs.keep = 1.0;
  return inputs;
}

// Tells each planned tensor its form; empty ones are not planned.
void give_forms(const ClipViews& views, std::vector<PlannedTensor>& tensors) {
  size_t planned = 0;
  for (size_t i = 0; i < views.grads.size(); ++i)
    if (views.grads[i].count > 0) tensors[planned++].entry.basis = views.form(i);
}

Tensor clip_scale(std::vector<Tensor> grads, std::optional<Tensor> grad_scale, Tensor state, double max_norm,
                  std::vector<Tensor> forms, std::optional<std::vector<int64_t>> form_ids) {
  const ClipViews views = check_clip(grads, grad_scale, state, max_norm, forms, form_ids);
  const float* scale = grad_scale ? data_of<const float>(views.grad_scale) : nullptr;
  Inputs inputs = inputs_of(views, scale);
  std::vector<PlannedTensor> tensors = plan_tensors(inputs);
  give_forms(views, tensors);
  inputs.grad_scale = scale;
  int64_t sums = 0;
  for (const PlannedTensor& tensor : tensors) sums += tensor.tiles;
  sums = std::max<int64_t>(sums, 1);
  const Device device(state);
  Tensor memory = torch::stable::new_empty(state, {sums}, torch::headeronly::ScalarType::Double);
  Tensor result = torch::stable::new_empty(state, {}, torch::headeronly::ScalarType::Float);
  const NormOut out = {static_cast<double*>(memory.mutable_data_ptr()), sums, max_norm,
                       static_cast<float*>(result.mutable_data_ptr())};
  launch_norm(inputs, std::move(tensors), out, device.stream());
  return result;
}

std::string cuda_problem(int64_t device) { return problem_of_device(static_cast<int>(device)); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tip_kernels, CUDA, m) {
  m.impl("perturb_", TORCH_BOX(&perturb_op<perturb>));
  m.impl("channel_saliency", TORCH_BOX(&channel_saliency));
  m.impl("words_", TORCH_BOX(&words_));
  m.impl("clip_scale", TORCH_BOX(&clip_scale));
}

STABLE_TORCH_LIBRARY_IMPL(tip_kernels, CompositeExplicitAutograd, m) {
  m.impl("cuda_problem", TORCH_BOX(&cuda_problem));
}

}  // namespace tip
