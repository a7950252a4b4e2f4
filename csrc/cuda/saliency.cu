// channel_saliency: sums over parts of space of every sample and channel in one read; then the parts of a sample make a
// mean, and its magnitudes the score of a channel. Sums are taken in a fixed order, in float32 (float64 for float64).
#include <algorithm>
#include <type_traits>

#include "core/dtype.h"
#include "cuda/check.h"
#include "cuda/launch.h"
#include "cuda/offset.h"

namespace tip {

namespace {

constexpr int kSumThreads = 256;
constexpr int kWarp = 32;

template <class T>
using Sum = decltype(value(T()));

// Elements of 16 bytes.
template <class T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T element[kSize];
};

template <class A>
__device__ A sum_of_warp(A x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
  return x;
}

// Every kThreads-th vector of `count` contiguous elements from a thread's own on, several reads in flight.
template <class T, int kThreads>
__device__ Sum<T> sum_vectors(const T* x, int64_t count, int thread) {
  constexpr int kSize = Vector<T>::kSize, kInFlight = 4;
  const Vector<T>* vectors = reinterpret_cast<const Vector<T>*>(x);
  Sum<T> sum[kInFlight] = {};
  int64_t i = thread;
  for (; i + (kInFlight - 1) * kThreads < count / kSize; i += kInFlight * kThreads) {
    Vector<T> read[kInFlight];
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) read[n] = vectors[i + n * kThreads];
#pragma unroll
    for (int n = 0; n < kInFlight; ++n)
#pragma unroll
      for (int e = 0; e < kSize; ++e) sum[n] += value(read[n].element[e]);
  }
  for (; i < count / kSize; i += kThreads)
#pragma unroll
    for (int e = 0; e < kSize; ++e) sum[0] += value(vectors[i].element[e]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// The points of a part.
struct Range {
  int64_t begin, end;
};

__device__ Range range_of(const ActivationGradByAxes& grad, int64_t part) {
  const int64_t begin = part * grad.part_points, end = begin + grad.part_points;
  return {begin, end < grad.space ? end : grad.space};
}

// Where the sum of a sample, part and channel lies.
__device__ int64_t place(const ActivationGradByAxes& grad, int64_t sample, int64_t part, int64_t channel) {
  return (sample * grad.parts + part) * grad.channels + channel;
}

template <class T, int kThreads>
__device__ Sum<T> sum_space(const ActivationGradByAxes& grad, const T* x, Range range, int thread) {
  const bool contiguous = grad.axes == 1 && grad.axis[0].stride == 1;
  const int64_t count = range.end - range.begin;
  if (contiguous && reinterpret_cast<uintptr_t>(x + range.begin) % 16 == 0 && count % Vector<T>::kSize == 0)
    return sum_vectors<T, kThreads>(x + range.begin, count, thread);
  Sum<T> sum = 0;
  TIP_ROLLED
  for (int64_t i = range.begin + thread; i < range.end; i += kThreads)
    sum += value(x[contiguous ? i : stride_offset(grad.axis, grad.axes, i)]);
  return sum;
}

// Space lies together, or anyhow: a part of a channel of a sample is for kThreads threads, a warp or the block.
template <class T, int kThreads>
__global__ void __launch_bounds__(kSumThreads, 3)
    sum_rows(const __grid_constant__ ActivationGradByAxes grad, Sum<T>* sums) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * (kSumThreads / kThreads) + threadIdx.x / kThreads;
  const int64_t part = blockIdx.z;
  const bool inside = channel < grad.channels;
  for (int64_t sample = blockIdx.y; sample < grad.samples; sample += gridDim.y) {
    const T* x = reinterpret_cast<const T*>(grad.data) + sample * grad.sample_stride + channel * grad.channel_stride;
    const int own = threadIdx.x % kThreads;
    Sum<T> sum = sum_of_warp(inside ? sum_space<T, kThreads>(grad, x, range_of(grad, part), own) : 0);
    if constexpr (kThreads > kWarp) {
      __shared__ Sum<T> partial[kSumThreads / kWarp];
      __syncthreads();  // before the next sample overwrites it
      if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = sum;
      __syncthreads();
      sum = 0;
      for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += partial[warp];
    }
    if (inside && own == 0) sums[place(grad, sample, part, channel)] = sum;
  }
}

constexpr int kColumns = 8;  // vectors of channels that a block takes

// Channels lie together: a thread reads a vector of them at every kRows-th point of the part.
template <class T>
__global__ void __launch_bounds__(kSumThreads, 3)
    sum_columns(const __grid_constant__ ActivationGradByAxes grad, Sum<T>* sums) {
  constexpr int kSize = Vector<T>::kSize, kRows = kSumThreads / kColumns, kInFlight = 4;
  __shared__ Sum<T> partial[kRows][kColumns * kSize + 1];
  const int column = threadIdx.x % kColumns, row = threadIdx.x / kColumns;
  const int64_t channel = (static_cast<int64_t>(blockIdx.x) * kColumns + column) * kSize;
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kColumns * kSize + threadIdx.x;
  const int64_t stride = grad.axis[0].stride, part = blockIdx.z;
  const Range range = range_of(grad, part);
  const int64_t end = channel < grad.channels ? range.end : range.begin;
  for (int64_t sample = blockIdx.y; sample < grad.samples; sample += gridDim.y) {
    const T* x = reinterpret_cast<const T*>(grad.data) + sample * grad.sample_stride + channel;
    Sum<T> sum[kSize] = {};
    int64_t i = range.begin + row;
    for (; i + (kInFlight - 1) * kRows < end; i += kInFlight * kRows) {
      Vector<T> read[kInFlight];
#pragma unroll
      for (int n = 0; n < kInFlight; ++n) read[n] = *reinterpret_cast<const Vector<T>*>(x + (i + n * kRows) * stride);
#pragma unroll
      for (int n = 0; n < kInFlight; ++n)
#pragma unroll
        for (int e = 0; e < kSize; ++e) sum[e] += value(read[n].element[e]);
    }
    for (; i < end; i += kRows) {
      const Vector<T> read = *reinterpret_cast<const Vector<T>*>(x + i * stride);
#pragma unroll
      for (int e = 0; e < kSize; ++e) sum[e] += value(read.element[e]);
    }
    __syncthreads();  // before the next sample overwrites them
    for (int e = 0; e < kSize; ++e) partial[row][column * kSize + e] = sum[e];
    __syncthreads();
    if (threadIdx.x >= kColumns * kSize || own >= grad.channels) continue;
    Sum<T> total = 0;
    for (int r = 0; r < kRows; ++r) total += partial[r][threadIdx.x];
    sums[place(grad, sample, part, own)] = total;
  }
}

template <class A>
__device__ float magnitude_of_mean(const ActivationGradByAxes& grad, const A* sums, int64_t sample, int64_t channel) {
  A sum = 0;
  for (int64_t part = 0; part < grad.parts; ++part) sum += sums[place(grad, sample, part, channel)];
  return static_cast<float>((sum < 0 ? -sum : sum) * static_cast<A>(1.0 / static_cast<double>(grad.space)));
}

// From the sums to scores [channels]: a warp's threads take successive channels.
template <class A>
__global__ void __launch_bounds__(kSumThreads)
    sum_samples(const __grid_constant__ ActivationGradByAxes grad, const A* sums, float* scores) {
  constexpr int kRows = kSumThreads / kWarp;
  __shared__ float partial[kRows][kWarp];
  const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  float sum = 0;
  if (channel < grad.channels)
    for (int64_t sample = row; sample < grad.samples; sample += kRows)
      sum += magnitude_of_mean(grad, sums, sample, channel);
  partial[row][lane] = sum;
  __syncthreads();
  if (row > 0 || channel >= grad.channels) return;
  for (int r = 1; r < kRows; ++r) sum += partial[r][lane];
  scores[channel] = sum;
}

unsigned int blocks_for(int64_t work, int64_t of_a_block) {
  return static_cast<unsigned int>((work + of_a_block - 1) / of_a_block);
}

// Whether vectors of channels can be read at every point of space.
template <class T>
bool channels_lie_together(const ActivationGradByAxes& grad) {
  constexpr int64_t kSize = Vector<T>::kSize;
  return grad.channel_stride == 1 && grad.axes == 1 && grad.channels % kSize == 0 && grad.axis[0].stride % kSize == 0 &&
         grad.sample_stride % kSize == 0 && reinterpret_cast<uintptr_t>(grad.data) % 16 == 0;
}

constexpr int64_t kEnoughRows = 4096;  // of a warp each: they fill a device

enum class Way { columns, rows_by_warp, rows_by_block };

template <class T>
Way way_of(const ActivationGradByAxes& grad) {
  if (channels_lie_together<T>(grad)) return Way::columns;
  return grad.samples * grad.channels >= kEnoughRows ? Way::rows_by_warp : Way::rows_by_block;
}

template <class T>
constexpr int channels_of_block(Way way) {
  return way == Way::columns ? kColumns * Vector<T>::kSize : way == Way::rows_by_warp ? kSumThreads / kWarp : 1;
}

template <class T>
void launch_sums(const ActivationGradByAxes& grad, Sum<T>* sums, cudaStream_t stream) {
  constexpr int64_t kMostBlocksY = 65535;
  const Way way = way_of<T>(grad);
  const dim3 blocks(blocks_for(grad.channels, channels_of_block<T>(way)),
                    static_cast<unsigned int>(std::min(grad.samples, kMostBlocksY)),
                    static_cast<unsigned int>(grad.parts));
  switch (way) {
    case Way::columns: sum_columns<T><<<blocks, kSumThreads, 0, stream>>>(grad, sums); break;
    case Way::rows_by_warp: sum_rows<T, kWarp><<<blocks, kSumThreads, 0, stream>>>(grad, sums); break;
    case Way::rows_by_block: sum_rows<T, kSumThreads><<<blocks, kSumThreads, 0, stream>>>(grad, sums); break;
  }
  check(cudaGetLastError());
}

template <class T>
void launch_both(const ActivationGradByAxes& grad, void* memory, float* scores, cudaStream_t stream) {
  Sum<T>* sums = static_cast<Sum<T>*>(memory);
  if (grad.samples > 0) launch_sums<T>(grad, sums, stream);
  sum_samples<<<blocks_for(grad.channels, kWarp), kSumThreads, 0, stream>>>(grad, sums, scores);
  check(cudaGetLastError());
}

// Calls f with a null pointer of the element type.
template <class F>
void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::f32: return f(static_cast<float*>(nullptr));
    case DType::f64: return f(static_cast<double*>(nullptr));
    case DType::bf16: return f(static_cast<BFloat16*>(nullptr));
    case DType::f16: return f(static_cast<Half*>(nullptr));
  }
}

}  // namespace

void cut_space(ActivationGradByAxes& grad) {
  constexpr int64_t kEnoughBlocks = 1024;  // some for each place of the largest devices
  constexpr int64_t kEnoughPoints = 256;   // of a part, in vectors of 16 bytes or one for each row of a block
  with_type(grad.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Way way = way_of<T>(grad);
    const int64_t least = kEnoughPoints * (way == Way::columns ? 1 : Vector<T>::kSize);
    const int64_t blocks = std::max<int64_t>(1, blocks_for(grad.channels, channels_of_block<T>(way)) * grad.samples);
    const int64_t wanted = std::max<int64_t>(1, kEnoughBlocks / blocks);
    const int64_t points = std::max(least, (grad.space + wanted - 1) / wanted);
    grad.part_points = (points + least - 1) / least * least;
    grad.parts = std::max<int64_t>(1, (grad.space + grad.part_points - 1) / grad.part_points);
  });
}

void launch_saliency(const ActivationGradByAxes& grad, void* sums, float* scores, void* stream) {
  if (grad.channels == 0) return;
  with_type(grad.dtype, [&](auto* type) {
    launch_both<std::remove_pointer_t<decltype(type)>>(grad, sums, scores, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace tip
