// What a checked call of the op perturb_ asks for, as the plans of both compiled backends read it. Without torch, so
// that tests can plan without it. Pointers to numbers are to memory of the gradients' device.
#pragma once

#include <vector>

#include "core/axes.h"
#include "core/dtype.h"
#include "core/noise.h"

namespace tip {

// Where a tensor lies in the whole of which it is a part.
struct Shard {
  int64_t first_channel, first_kernel;
  int64_t kernels;  // of a channel of the whole
};

struct BasisInput {
  const double* matrix;  // [taps, taps] row-major, masked columns first
  int64_t taps, high_dim;
};

struct TensorInput {
  char* data;
  DType dtype;
  Shape shape;    // [C, M, *kernel_size], or fewer dimensions; it may be empty
  int64_t id;     // index of the tensor in the model, and of its std
  int64_t basis;  // index into Inputs::bases; -1 without a high band
  // Of the whole, where there is a high band:
  const float* scores;
  int64_t channels, selected;
  Shard shard;
  const float* amplitudes;  // [2, taps], of selected channels and of others; null for 1 everywhere
};

struct Inputs {
  std::vector<TensorInput> tensors;
  std::vector<BasisInput> bases;
  int64_t* state;
  const float* std;
  const float* floor_std;   // null without a floor
  const float* grad_scale;  // null for 1
  double keep;
  int generator;

  bool has_floor() const { return floor_std != nullptr; }
  bool is_scaled() const { return grad_scale != nullptr; }
  bool replaces() const { return keep != 1.0; }  // a part of the high band

  // Of a unit of a selected channel of a tensor, or of any other.
  Noise noise_of(const TensorInput& tensor, bool selected) const {
    return tip::noise_of(selected, has_floor(), is_scaled(), tensor.amplitudes != nullptr);
  }

  // Whether anything happens to a tensor.
  bool changes(const TensorInput& tensor) const {
    for (int64_t dim = 0; dim < tensor.shape.dims; ++dim)
      if (tensor.shape.sizes[dim] == 0) return false;
    return (tensor.basis >= 0 && tensor.selected > 0) || noise_of(tensor, false) != Noise::untouched;
  }
};

}  // namespace tip
