// The arguments of torch.ops.tip_kernels.perturb_, whose schema is in _op/schemas.py. Here alone the C++ sources
// know their order: a new argument comes here, then to who reads it by name.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <utility>
#include <vector>

namespace tip {

using torch::stable::Tensor;

struct Arguments {
  std::vector<Tensor> grads;
  std::vector<Tensor> scores;
  std::vector<int64_t> selected;
  std::vector<int64_t> tensor_ids;
  std::vector<int64_t> basis_ids;
  std::vector<Tensor> bases;
  std::vector<int64_t> high_dims;
  Tensor std;
  std::optional<Tensor> floor_std;
  std::optional<Tensor> grad_scale;
  Tensor state;
  double keep;
  int64_t generator;
  std::optional<std::vector<int64_t>> shards;
  std::vector<Tensor> amplitudes;
  std::optional<std::vector<int64_t>> amplitude_ids;
};

// What a backend registers: the op, which calls perturb(arguments).
template <void (*perturb)(const Arguments&)>
void perturb_op(std::vector<Tensor> grads, std::vector<Tensor> scores, std::vector<int64_t> selected,
                std::vector<int64_t> tensor_ids, std::vector<int64_t> basis_ids, std::vector<Tensor> bases,
                std::vector<int64_t> high_dims, Tensor std, std::optional<Tensor> floor_std,
                std::optional<Tensor> grad_scale, Tensor state, double keep, int64_t generator,
                std::optional<std::vector<int64_t>> shards, std::vector<Tensor> amplitudes,
                std::optional<std::vector<int64_t>> amplitude_ids) {
  perturb({std::move(grads), std::move(scores), std::move(selected), std::move(tensor_ids), std::move(basis_ids),
           std::move(bases), std::move(high_dims), std::move(std), std::move(floor_std), std::move(grad_scale),
           std::move(state), keep, generator, std::move(shards), std::move(amplitudes), std::move(amplitude_ids)});
}

}  // namespace tip
