// What the host calls of the device code, without torch and without CUDA headers. CUDA errors are std::runtime_error.
#pragma once

#include "cuda/plan.h"

namespace tip {

constexpr int32_t kTickets = 65536;  // states in use at the same time, for each device and generator
constexpr int kMostAxes = 16;

// An activation gradient [samples, channels, *space].
struct ActivationGrad {
  DType dtype;
  const char* data;
  int64_t samples, channels, space;
  double inverse_space;
  int64_t sample_stride, channel_stride;
  int32_t axes;               // of space, innermost first
  Axis axis[kMostAxes];
};

// Where words go: the elements of a tensor in row-major order.
struct WordsOut {
  int32_t* data;
  int64_t count;
  int32_t axes;  // innermost first
  Axis axis[kMostAxes];
};

// Makes a device the current one for CUDA calls of this thread.
void set_device(int device);

// `stream` is a cudaStream_t of the current device. `call.first_tile` is set here.
void launch_perturb(int rounds, const Call& call, const std::vector<PlannedTensor>& tensors, void* stream);

// Words first .. first + out.count - 1 of a tensor's stream.
void launch_words(int rounds, const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out, void* stream);

// |mean over space| of every sample to `alpha` [samples, channels], and its sum over samples to `scores` [channels].
void launch_saliency(const ActivationGrad& grad, float* alpha, float* scores, void* stream);

}  // namespace tip
