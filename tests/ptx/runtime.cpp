// A CUDA runtime that runs nothing itself: it hands launches to Python, which executes PTX (tests/ptx/cuda.py), and
// fails at the call that a test asks it to. What the host code of csrc/cuda calls, and what nvcc's own code does.
#include <cuda_runtime_api.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>

#define EXPORTED extern "C" __attribute__((visibility("default")))

struct Launch {
  const char* name;
  uint32_t grid[3], block[3];
  uint64_t shared_bytes;
  int64_t shared_limit;  // what cudaFuncSetAttribute allows, -1 if it was not called
  void* stream;
  void** arguments;
  int32_t early;  // may begin before the launches before it have ended
};

using RunLaunch = int (*)(const Launch*);
using NoteCall = int (*)(const char*);

namespace {

RunLaunch run_launch = nullptr;
NoteCall note_call = nullptr;
thread_local cudaError_t last_error = cudaSuccess;
int compute_capability = 0, most_shared_bytes = 0;  // of the device that this stands for

struct Known {
  std::mutex mutex;
  std::map<const void*, std::string> names;
  std::map<const void*, int64_t> limits;
};

Known& known() {
  static Known known;
  return known;
}

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  void* stream;
};
thread_local Configuration configuration;

// What a call of the runtime returns: an error if the test wants one here.
cudaError_t called(const char* name) {
  const cudaError_t error = note_call ? static_cast<cudaError_t>(note_call(name)) : cudaSuccess;
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared_bytes, void* stream,
                   bool early) {
  Launch launch = {nullptr, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes, -1, stream, arguments,
                   early};
  {
    const std::lock_guard<std::mutex> lock(known().mutex);
    launch.name = known().names.at(function).c_str();
    if (known().limits.count(function)) launch.shared_limit = known().limits[function];
  }
  cudaError_t error = called("launch");
  if (error == cudaSuccess) error = static_cast<cudaError_t>(run_launch(&launch));
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace

EXPORTED void set_callbacks(RunLaunch run, NoteCall note) { run_launch = run, note_call = note; }
EXPORTED void set_device_limits(int capability, int shared_bytes) {
  compute_capability = capability, most_shared_bytes = shared_bytes;
}
EXPORTED void forget_attributes() { known().limits.clear(); }

EXPORTED void** __cudaRegisterFatBinary(void* binary) { return new void*(binary); }
EXPORTED void __cudaRegisterFatBinaryEnd(void**) {}
EXPORTED void __cudaUnregisterFatBinary(void** handle) { delete handle; }
EXPORTED void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
EXPORTED void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*,
                                     int*) {
  known().names[host] = name;
}

EXPORTED unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
  configuration = {grid, block, shared_bytes, stream};
  return 0;
}
EXPORTED cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
  *grid = configuration.grid, *block = configuration.block, *shared_bytes = configuration.shared_bytes;
  std::memcpy(stream, &configuration.stream, sizeof(void*));
  return cudaSuccess;
}
EXPORTED cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
EXPORTED cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                                        size_t shared_bytes, cudaStream_t stream) {
  return launch(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared_bytes, stream, false);
}
EXPORTED cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                                      size_t shared_bytes, cudaStream_t stream) {
  return launch(function, grid, block, arguments, shared_bytes, stream, false);
}
EXPORTED cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  bool early = false;
  for (unsigned i = 0; i < config->numAttrs; ++i)
    if (config->attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization)
      early = config->attrs[i].val.programmaticStreamSerializationAllowed != 0;
  return launch(function, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes, config->stream,
                early);
}

EXPORTED cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const cudaError_t error = called("cudaFuncSetAttribute");
  if (error != cudaSuccess) return error;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
  const std::lock_guard<std::mutex> lock(known().mutex);
  known().limits[function] = value;
  return cudaSuccess;
}
EXPORTED cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->ptxVersion = compute_capability;
  return called("cudaFuncGetAttributes");
}
EXPORTED cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute != cudaDevAttrMaxSharedMemoryPerBlockOptin) return cudaErrorInvalidValue;
  *value = most_shared_bytes;
  return called("cudaDeviceGetAttribute");
}
EXPORTED cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return called("cudaGetDevice");
}
EXPORTED cudaError_t cudaDriverGetVersion(int* version) {
  *version = 12080;
  return cudaSuccess;
}
EXPORTED cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
EXPORTED cudaError_t cudaSetDevice(int) { return called("cudaSetDevice"); }
EXPORTED cudaError_t cudaGetLastError() {
  const cudaError_t error = called("cudaGetLastError");
  const cudaError_t last = error != cudaSuccess ? error : last_error;
  last_error = cudaSuccess;
  return last;
}
EXPORTED const char* cudaGetErrorString(cudaError_t) { return "an error of the test's runtime"; }
