// From a call's inputs to runs: the selection of channels, and the cutting of tensors.
#pragma once

#include <deque>
#include <vector>

#include "core/inputs.h"
#include "cpu/run.h"

namespace tip {

// The runs of a call, and what they point to.
class PlannedRuns {
 public:
  explicit PlannedRuns(const Inputs& inputs);  // which must live on

  // With the key, and without a step.
  RunTable table() const;

 private:
  void add_basis(const BasisInput& input);
  void add_tensor(const TensorInput& input);
  void set_amounts(const float* amplitudes, RunTensor& tensor);
  CoefficientAmounts add_amounts(std::vector<double> exact);
  void add_channels(const TensorInput& input, const RunTensor& tensor);
  void add_elements(const TensorInput& input, const RunTensor& tensor);
  void add_run(const RunTensor& tensor, Noise noise, char* data, int64_t stride, int64_t first, int64_t units);

  const Inputs& inputs_;
  std::vector<Basis> bases_;
  std::deque<std::vector<float>> rounded_;
  std::deque<std::vector<double>> exact_;
  std::deque<std::vector<int64_t>> tap_offsets_;
  std::deque<RunTensor> tensors_;  // a deque: runs point to its elements
  std::vector<Run> runs_;
};

}  // namespace tip
