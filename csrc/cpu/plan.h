// From the op's arguments to work: selection, and the cutting of tensors into runs.
#pragma once

#include <deque>
#include <vector>

#include "cpu/tensors.h"
#include "cpu/work.h"
#include "op/check_arguments.h"

namespace tip {

class Plan {
 public:
  // Of checked arguments, which `views` are too.
  Plan(const Arguments& arguments, const Views& views);

  const std::vector<Run>& runs() const { return runs_; }

 private:
  struct Shard {
    int64_t first_channel, first_kernel, kernels_per_channel;
  };

  void add_bases(const Arguments& arguments, const Views& views);
  void add_tensor(const Arguments& arguments, const Views& views, size_t i);
  void add_channels(const TensorWork& tensor, const View& grad, Shard shard, const std::vector<char>& selected);
  void add_elements(const TensorWork& tensor, const View& grad, Shard shard);
  void add_run(const TensorWork& tensor, Noise noise, char* data, int64_t stride, int64_t first, int64_t units);

  bool floor_, scaled_;
  std::vector<Basis> bases_;
  std::deque<std::vector<float>> rounded_;
  std::deque<std::vector<int64_t>> tap_offsets_;
  std::deque<TensorWork> tensors_;  // a deque: runs point to its elements
  std::vector<Run> runs_;
};

// Whether each channel is among the `count` highest-scored: NaN ranks highest, ties go to the lower index.
std::vector<char> select_channels(const float* scores, int64_t channels, int64_t count);

}  // namespace tip
