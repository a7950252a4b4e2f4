// CUDA errors as exceptions, which the stable ABI turns into Python's.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace tip {

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

}  // namespace tip
