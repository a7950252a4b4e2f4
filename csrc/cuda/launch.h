// What the host calls of the device code, without torch and without CUDA headers. CUDA errors are std::runtime_error.
#pragma once

#include "core/activation_grad.h"
#include "core/inputs.h"
#include "cuda/plan.h"
#include "cuda/ranking.h"

namespace tip {

constexpr int kMostAxes = 16;

struct ActivationGradByAxes : ActivationGrad {
  double inverse_space;
  int32_t axes;  // of space, innermost first
  Axis axis[kMostAxes];
};

// Where words go: the elements of a tensor in row-major order.
struct WordsOut {
  int32_t* data;
  int64_t count;
  int32_t axes;  // innermost first
  Axis axis[kMostAxes];
};

// Takes the step and perturbs the planned tensors. `ranking`: device memory of ranking_words(tensors), null if that is 0.
// `stream` is a cudaStream_t of the current device, here and below.
void launch_perturb(const Inputs& inputs, std::vector<PlannedTensor> tensors, uint32_t* ranking, void* stream);

// A part of it.
void launch_ranking(const RankTable& table, void* stream);

// Words first .. first + out.count - 1 of a tensor's stream.
void launch_words(int generator, const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out,
                  void* stream);

// |mean over space| of every sample to `alpha` [samples, channels], and its sum over samples to `scores` [channels].
void launch_saliency(const ActivationGradByAxes& grad, float* alpha, float* scores, void* stream);

}  // namespace tip
