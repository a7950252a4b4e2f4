// CUDA errors as exceptions, which the stable ABI turns into Python's.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace tip {

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // CUDA keeps an error until it is asked for it, and a later launch would seem to have failed
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

}  // namespace tip
