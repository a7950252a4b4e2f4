// clip_scale in one read of the gradients and one launch, or two where kernels count by forms: every block sums squares
// of a tile, in float64, and the last of them, which the state's counter tells, makes the factor of all the sums. Always
// in the same order.
#include <algorithm>

#include "core/clip.h"
#include "cuda/any_kernel.h"
#include "cuda/block.h"
#include "cuda/check.h"
#include "cuda/launch.h"
#include "cuda/launch_tables.h"
#include "cuda/tile.h"

namespace tip {

namespace {

constexpr int kWarps = kThreads / 32;

// What the last block does.
struct Finish {
  bool is_last_launch;
  int64_t first_sum, sums;  // of this launch, of all
  double max_norm;
  float* result;
};

__device__ double square(double x) { return x * x; }

// Of the elements from slot `thread` on, one by one.
template <class T>
__device__ double squares_of_slots(const Entry& entry, const Axis* axes, const Tile& tile, int begin, int end,
                                   int thread) {
  const T* data = reinterpret_cast<const T*>(entry.data);
  double sum = 0;
  TIP_ROLLED
  for (int slot = begin + thread; slot < end; slot += kThreads)
    sum += square(value(data[unit_offset(entry, axes, tile, slot)]));
  return sum;
}

// The same where elements lie one after the other, 16 bytes at a time between aligned addresses.
template <class T>
__device__ double squares_of_vectors(const Tile& tile, int thread) {
  constexpr int kSize = 16 / sizeof(T), kInFlight = 4;
  struct alignas(16) Vector {
    T element[kSize];
  };
  const T* slots = reinterpret_cast<const T*>(global_pointer(tile.data));
  const uintptr_t misaligned = reinterpret_cast<uintptr_t>(slots + tile.begin) % 16 / sizeof(T);
  const int begin = tile.begin + static_cast<int>((kSize - misaligned) % kSize);
  double sum = 0;
  if (begin >= tile.end) {
    for (int slot = tile.begin + thread; slot < tile.end; slot += kThreads) sum += square(value(slots[slot]));
    return sum;
  }
  const Vector* vectors = reinterpret_cast<const Vector*>(slots + begin);
  const int count = (tile.end - begin) / kSize;
  TIP_ROLLED
  for (int first = thread; first < count; first += kInFlight * kThreads) {
    Vector read[kInFlight] = {};
    TIP_UNROLL
    for (int n = 0; n < kInFlight; ++n)
      if (first + n * kThreads < count) read[n] = vectors[first + n * kThreads];
    TIP_UNROLL
    for (int n = 0; n < kInFlight; ++n) {
      TIP_UNROLL
      for (int e = 0; e < kSize; ++e) sum += square(value(read[n].element[e]));
    }
  }
  const int rest = begin + count * kSize + thread;  // fewer than a vector, before and after
  if (tile.begin + thread < begin) sum += square(value(slots[tile.begin + thread]));
  if (rest < tile.end) sum += square(value(slots[rest]));
  return sum;
}

__device__ double load_double(const Entry& entry, int64_t i) {
  if (entry.dtype == DType::f64) return load_as(entry.data, i, entry.dtype, 0.0);
  return load_as(entry.data, i, entry.dtype, 0.0f);
}

// Of |form g|^2 over kernels g, one of its numbers at a time: neighbors in a warp read the same few kernels. For all
// dtypes at once.
__device__ double squares_of_forms(const Entry& entry, const Axis* axes, const Tile& tile, int thread) {
  const int taps = entry.taps, count = (tile.end - tile.begin) * taps;
  double sum = 0;
  TIP_ROLLED
  for (int i = thread; i < count; i += kThreads) {
    const int64_t kernel = unit_offset(entry, axes, tile, tile.begin + i / taps);
    const double* row = entry.basis + static_cast<int64_t>(i % taps) * taps;
    double number = 0;
    TIP_ROLLED
    for (int tap = 0; tap < taps; ++tap) number += row[tap] * load_double(entry, kernel + tap_offset(entry, axes, tap));
    sum += square(number);
  }
  return sum;
}

template <class T>
__device__ double squares_as(const Entry& entry, const Axis* axes, const Tile& tile, int thread) {
  if constexpr (sizeof(T) <= 4)
    if (entry.path == Path::elements) return squares_of_vectors<T>(tile, thread);
  return squares_of_slots<T>(entry, axes, tile, tile.begin, tile.end, thread);
}

__device__ double squares_of(const Entry& entry, const Axis* axes, const Tile& tile, int thread) {
  switch (entry.dtype) {
    case DType::f32: return squares_as<float>(entry, axes, tile, thread);
    case DType::f64: return squares_as<double>(entry, axes, tile, thread);
    case DType::bf16: return squares_as<BFloat16>(entry, axes, tile, thread);
    case DType::f16: return squares_as<Half>(entry, axes, tile, thread);
  }
  return 0;
}

// The sum of all threads, for thread 0.
__device__ double sum_of_block(double x, double partial[kWarps]) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (int warp = 0; warp < kWarps; ++warp) x += partial[warp];
  return x;
}

// Kernels that count by forms have a variant of their own, for the registers that they need.
template <class T, bool kForms>
__global__ void __launch_bounds__(kThreads)
    sum_squares(const __grid_constant__ T table, double* sums, const __grid_constant__ Finish finish) {
  __shared__ Tile tile;
  __shared__ double partial[kWarps];
  __shared__ bool is_last;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t index = table.header.first_tile + blockIdx.x;
  if (thread == 0) {
    tile.rows = 0;
    if (index < table.tiles) tile = locate(table, index);
  }
  __syncthreads();
  double sum = 0;
  if (tile.rows > 0) {
    const Entry& entry = table.entry[tile.entry];
    const Axis* axes = table.axis + entry.first_axis;
    sum = kForms ? squares_of_forms(entry, axes, tile, thread) : squares_of(entry, axes, tile, thread);
  }
  sum = sum_of_block(sum, partial);
  if (!kForms && tile.rows > 0 && table.entry[tile.entry].basis) sum *= square(*table.entry[tile.entry].basis);
  if (thread == 0) {
    sums[finish.first_sum + blockIdx.x] = sum;
    unsigned int* counter = reinterpret_cast<unsigned int*>(table.header.state + 5);
    is_last = finish.is_last_launch && count_around(counter, gridDim.x) == gridDim.x - 1;
    if (is_last) fence();
  }
  __syncthreads();
  if (!is_last) return;
  sum = 0;
  TIP_ROLLED
  for (int64_t i = thread; i < finish.sums; i += kThreads) sum += sums[i];
  sum = sum_of_block(sum, partial);
  const float scale = table.header.grad_scale ? *table.header.grad_scale : 1.0f;
  if (thread == 0) *finish.result = clipped_scale(sum, scale, finish.max_norm);
}

class NormLauncher {
 public:
  NormLauncher(const NormOut& out, void* stream) : out_(out), stream_(static_cast<cudaStream_t>(stream)) {}

  int64_t most_blocks() const { return INT32_MAX; }

  template <class T>
  void operator()(const T& table, int64_t blocks, int64_t) {
    const int64_t first = done_;
    done_ += blocks;
    const Finish finish = {done_ == out_.sums, first, out_.sums, out_.max_norm, out_.result};
    const auto kernel = forms ? sum_squares<T, true> : sum_squares<T, false>;
    kernel<<<static_cast<unsigned int>(blocks), kThreads, 0, stream_>>>(table, out_.memory, finish);
    check(cudaGetLastError());
  }

  bool forms = false;  // whether the next tensors are kernels that count by them

 private:
  const NormOut& out_;
  const cudaStream_t stream_;
  int64_t done_ = 0;
};

}  // namespace

void launch_norm(const Inputs& inputs, std::vector<PlannedTensor> tensors, const NormOut& out, void* stream) {
  const auto formed = std::stable_partition(tensors.begin(), tensors.end(),
                                            [](const PlannedTensor& tensor) { return tensor.entry.taps == 1; });
  const std::vector<PlannedTensor> kernels(formed, tensors.end());
  tensors.erase(formed, tensors.end());
  NormLauncher launcher(out, stream);
  if (!tensors.empty() || kernels.empty()) launch_tables<SmallTable, LargeTable>(header_of(inputs), tensors, launcher);
  launcher.forms = true;
  if (!kernels.empty()) launch_tables<SmallTable, LargeTable>(header_of(inputs), kernels, launcher);
}

}  // namespace tip
