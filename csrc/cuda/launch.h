// What the host calls of the device code, without torch and without CUDA headers. CUDA errors are std::runtime_error.
#pragma once

#include "core/activation_grad.h"
#include "core/inputs.h"
#include "cuda/plan.h"
#include "cuda/ranking.h"

namespace tip {

constexpr int kMostAxes = 16;

// Space is cut into parts, so that few channels fill a device, too.
struct ActivationGradByAxes : ActivationGrad {
  int64_t parts, part_points;  // the last part may have fewer
  int32_t axes;                // of space, innermost first
  Axis axis[kMostAxes];
};

// Bytes of the sums that a launch keeps between its two kernels: one for each sample, part and channel.
inline int64_t sums_bytes(const ActivationGradByAxes& grad) {
  return grad.samples * grad.parts * grad.channels * (grad.dtype == DType::f64 ? 8 : 4);
}

// Chooses the parts.
void cut_space(ActivationGradByAxes& grad);

// Where words go: the elements of a tensor in row-major order.
struct WordsOut {
  int32_t* data;
  int64_t count;
  int32_t axes;  // innermost first
  Axis axis[kMostAxes];
};

// Where the sums of squares of a call go, and the factor that clips.
struct NormOut {
  double* memory;  // [sums]
  int64_t sums;    // one for each tile, at least one
  double max_norm;
  float* result;
};

// Takes the step and perturbs the planned tensors. `ranking`: device memory of ranking_words(tensors), null if that is 0.
// `stream` is a cudaStream_t of the current device, here and below.
void launch_perturb(const Inputs& inputs, std::vector<PlannedTensor> tensors, uint32_t* ranking, void* stream);

// A part of it.
void launch_ranking(const RankTable& table, void* stream);

// The factor that clips, of tensors that are planned as if they were scaled.
void launch_norm(const Inputs& inputs, std::vector<PlannedTensor> tensors, const NormOut& out, void* stream);

// Words first .. first + out.count - 1 of a tensor's stream.
void launch_words(int generator, const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out,
                  void* stream);

// The sum over samples of |mean over space| to `scores` [channels], by way of sums_bytes(grad) at `sums`.
void launch_saliency(const ActivationGradByAxes& grad, void* sums, float* scores, void* stream);

}  // namespace tip
