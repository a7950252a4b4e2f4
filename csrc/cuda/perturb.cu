// The kernels of one generator, TIP_GENERATOR, and their launches.
#include <mutex>

#include "cuda/check.h"
#include "cuda/device.h"
#include "cuda/launch_tables.h"
#include "cuda/per_generator.h"
#include "cuda/perturb_tile.h"

namespace tip {

namespace {

template <class T>
__global__ void __launch_bounds__(kThreads, 6) perturb_tiles(const __grid_constant__ T table) {
  __shared__ Shared shared;
  extern __shared__ __align__(16) char memory[];
  perturb_tile<TIP_GENERATOR>(DeviceBlock(), table, table.header.first_tile + blockIdx.x, shared, memory,
                              [&](uint64_t step) { take_ticket(table.header, gridDim.x, step); });
}

// A thread for each group of words.
__global__ void __launch_bounds__(kThreads)
    write_words(const int64_t* state, uint32_t tensor, int64_t first, const __grid_constant__ WordsOut out) {
  const int64_t group = first / kGroup + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t begin = group * kGroup - first;  // of the group's words in `out`
  if (begin >= out.count) return;
  uint32_t words[kGroup];
  generate<TIP_GENERATOR>(read_stream(state), counter(tensor, group), words);
  TIP_UNROLL
  for (int i = 0; i < kGroup; ++i)
    if (begin + i >= 0 && begin + i < out.count)
      out.data[stride_offset(out.axis, out.axes, begin + i)] = static_cast<int32_t>(words[i]);
}

// What a block can have beside its static shared memory without asking for it.
constexpr int64_t kPlentyShared = 48 * 1024 - sizeof(Shared);

// Raises before anything is launched, where a later launch would fail.
void check_shared_memory(const std::vector<PlannedTensor>& tensors) {
  int64_t most = 0;
  for (const PlannedTensor& tensor : tensors) most = std::max(most, tensor.shared_bytes);
  if (most <= kPlentyShared) return;
  const int64_t room = most_shared_bytes() - static_cast<int64_t>(sizeof(Shared));
  if (most > room)
    throw std::runtime_error("expected conv kernels whose noise fits into " + std::to_string(room) +
                             " bytes of a GPU block's memory, got some that take " + std::to_string(most));
}

class CudaLauncher {
 public:
  explicit CudaLauncher(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  int64_t most_blocks() const { return INT32_MAX; }

  template <class T>
  void operator()(const T& table, int64_t blocks, int64_t shared_bytes) const {
    if (shared_bytes > kPlentyShared)
      check(cudaFuncSetAttribute(perturb_tiles<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes)));
    cudaLaunchConfig_t launch = {};
    launch.gridDim = dim3(static_cast<unsigned int>(blocks));
    launch.blockDim = dim3(kThreads);
    launch.dynamicSmemBytes = shared_bytes;
    launch.stream = stream_;
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    launch.attrs = &overlap;
    launch.numAttrs = table.header.waits && can_wait<T>() ? 1 : 0;
    check(cudaLaunchKernelEx(&launch, perturb_tiles<T>, table));
  }

 private:
  // Whether the kernel's code knows how to wait for the launch before, which nothing else makes it do then.
  template <class T>
  static bool can_wait() {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, perturb_tiles<T>));
    return attributes.ptxVersion >= 90;
  }

  cudaStream_t stream_;
};

}  // namespace

template <>
void PerGenerator<TIP_GENERATOR>::perturb(const TableHeader& header, const std::vector<PlannedTensor>& tensors,
                                          void* stream) {
  // The launches of a call follow one another: the later ones count on the step that the first one took.
  static std::mutex launches;
  const std::lock_guard<std::mutex> lock(launches);
  check_shared_memory(tensors);
  CudaLauncher launcher(stream);
  launch_tables<SmallTable, LargeTable>(header, tensors, launcher);
}

template <>
void PerGenerator<TIP_GENERATOR>::words(const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out,
                                        void* stream) {
  if (out.count == 0) return;
  const int64_t groups = (first + out.count - 1) / kGroup - first / kGroup + 1;
  const unsigned int blocks = static_cast<unsigned int>((groups + kThreads - 1) / kThreads);
  write_words<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(state, tensor, first, out);
  check(cudaGetLastError());
}

}  // namespace tip
