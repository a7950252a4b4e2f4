// The device of a call: making it current, what it has, and whether it can run what this library holds.
#include <cuda_runtime.h>

#include "cuda/check.h"
#include "cuda/device.h"

namespace tip {

namespace {

// Stands for all kernels of the library, which are compiled for the same compute capabilities.
__global__ void any_kernel_at_all() {}

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

std::string explained(cudaError_t error) {
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  if (error == cudaErrorInsufficientDriver)
    return "its library was built with CUDA " + version(runtime) + ", and the driver supports up to CUDA " +
           version(driver);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    return "its library was built for other compute capabilities (TIP_KERNELS_CUDA_ARCHS)";
  return std::string("CUDA says: ") + cudaGetErrorString(error);
}

}  // namespace

void set_device(int device) { check(cudaSetDevice(device)); }

int64_t most_shared_bytes() {
  int device, bytes;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

std::string problem_of_device(int device) {
  int before = 0;
  cudaFuncAttributes attributes;
  cudaError_t error = cudaGetDevice(&before);
  if (error == cudaSuccess) error = cudaSetDevice(device);
  if (error == cudaSuccess) {
    error = cudaFuncGetAttributes(&attributes, any_kernel_at_all);
    cudaSetDevice(before);
  }
  cudaGetLastError();  // torch must not find it later
  return error == cudaSuccess ? "" : explained(error);
}

}  // namespace tip
