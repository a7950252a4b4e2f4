// From the op's arguments to work: selection, and the cutting of tensors into runs.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "cpu/tensors.h"
#include "cpu/work.h"

namespace tip {

// The arguments of torch.ops.tip_kernels.perturb_, as documented in tip_kernels/_ops.py and checked there.
struct Arguments {
  const std::vector<Tensor>& grads;
  const std::vector<Tensor>& scores;
  const std::vector<int64_t>& selected;
  const std::vector<int64_t>& tensor_ids;
  const std::vector<int64_t>& basis_ids;
  const std::vector<Tensor>& bases;
  const std::vector<int64_t>& high_dims;
  const Tensor& std;
  const std::optional<Tensor>& floor_std;
  bool scaled;
  const std::optional<std::vector<int64_t>>& shards;
};

class Plan {
 public:
  explicit Plan(const Arguments& arguments);

  const std::vector<Run>& runs() const { return runs_; }

 private:
  struct Shard {
    int64_t first_channel, first_kernel, kernels_per_channel;
  };

  void add_bases(const Arguments& arguments);
  void add_tensor(const Arguments& arguments, size_t i);
  void add_channels(const TensorWork& tensor, const Tensor& grad, Shard shard, const std::vector<char>& selected);
  void add_elements(const TensorWork& tensor, const Tensor& grad, Shard shard);
  void add_run(const TensorWork& tensor, Noise noise, char* data, int64_t stride, int64_t first, int64_t units);

  bool floor_, scaled_;
  std::vector<Basis> bases_;
  std::deque<std::vector<float>> rounded_;
  std::deque<std::vector<int64_t>> tap_offsets_;
  std::deque<TensorWork> tensors_;  // a deque: runs point to its elements
  std::vector<Run> runs_;
};

// Whether each channel is among the `count` highest-scored: NaN ranks highest, ties go to the lower index.
std::vector<char> select_channels(const float* scores, int64_t stride, int64_t channels, int64_t count);

}  // namespace tip
