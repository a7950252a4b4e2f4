// From an op's arguments, once they are checked, to what plans and kernels read: without torch.
#pragma once

#include <vector>

#include "core/activation_grad.h"
#include "core/inputs.h"
#include "op/check_arguments.h"

namespace tip {

template <class T>
T* data_of(const View& view) {
  return reinterpret_cast<T*>(view.data);
}

inline TensorInput tensor_input(const Arguments& given, const Views& views, size_t i) {
  const View& grad = views.grads[i];
  TensorInput tensor = {};
  tensor.data = grad.data;
  tensor.dtype = dtype_of(grad);
  tensor.shape = grad;
  tensor.id = given.tensor_ids[i];
  tensor.basis = given.basis_ids[i];
  tensor.shard = shard_of(given, grad, i);
  if (tensor.basis < 0) return tensor;
  tensor.scores = data_of<const float>(views.scores[i]);
  tensor.channels = views.scores[i].count;
  tensor.selected = given.selected[i];
  const int64_t amplitudes = amplitude_id_of(given, i);
  if (amplitudes >= 0) tensor.amplitudes = data_of<const float>(views.amplitudes[amplitudes]);
  return tensor;
}

// Raises std::runtime_error unless perturb_ can run; nothing has changed then.
inline Inputs checked_inputs(const Arguments& given) {
  const Views views = check_perturb(given);
  Inputs inputs = {};
  inputs.tensors.reserve(views.grads.size());
  for (size_t i = 0; i < views.grads.size(); ++i) inputs.tensors.push_back(tensor_input(given, views, i));
  inputs.bases.reserve(views.bases.size());
  for (size_t b = 0; b < views.bases.size(); ++b)
    inputs.bases.push_back({data_of<const double>(views.bases[b]), views.bases[b].sizes[0], given.high_dims[b]});
  inputs.state = data_of<int64_t>(views.state);
  inputs.std = data_of<const float>(views.std);
  if (given.floor_std) inputs.floor_std = data_of<const float>(views.floor_std);
  if (given.grad_scale) inputs.grad_scale = data_of<const float>(views.grad_scale);
  inputs.keep = given.keep;
  inputs.generator = static_cast<int>(given.generator);
  return inputs;
}

// The points of space that count in a mean: not the same one again and again, as in an expanded tensor.
inline std::vector<Axis> space_axes(const View& grad) {
  if (grad.count == 0) return {{0, 1, 1}};
  std::vector<Axis> axes;
  int64_t index_stride = 1;
  for (int64_t dim = grad.dims - 1; dim >= 2; --dim) {
    if (grad.strides[dim] == 0) continue;
    append_axis(axes, {grad.sizes[dim], grad.strides[dim], index_stride});
    index_stride *= grad.sizes[dim];
  }
  if (axes.empty()) axes.push_back({1, 1, 1});
  return axes;
}

inline ActivationGrad activation_grad_of(const View& grad, const std::vector<Axis>& space) {
  int64_t points = 1;
  for (const Axis& axis : space) points *= axis.size;
  return {dtype_of(grad), grad.data, grad.sizes[0], grad.sizes[1], points, grad.strides[0], grad.strides[1]};
}

}  // namespace tip
