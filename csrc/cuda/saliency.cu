// channel_saliency: |mean over space| of every sample and channel in one read, then the sum over samples. Sums are
// taken in a fixed order, in float32 (float64 for float64).
#include <algorithm>

#include "core/dtype.h"
#include "cuda/check.h"
#include "cuda/launch.h"
#include "cuda/offset.h"

namespace tip {

namespace {

constexpr int kSumThreads = 256;
constexpr int kLanes = 32;

template <class T>
using Sum = decltype(value(T()));

template <class A>
__device__ float magnitude_of_mean(A sum, const ActivationGradByAxes& grad) {
  return static_cast<float>((sum < 0 ? -sum : sum) * static_cast<A>(grad.inverse_space));
}

// Elements of 16 bytes.
template <class T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T element[kSize];
};

template <class A>
__device__ A sum_of_warp(A x) {
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
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

template <class T, int kThreads>
__device__ Sum<T> sum_space(const ActivationGradByAxes& grad, const T* x, int thread) {
  const bool contiguous = grad.axes == 1 && grad.axis[0].stride == 1;
  if (contiguous && reinterpret_cast<uintptr_t>(x) % 16 == 0 && grad.space % Vector<T>::kSize == 0)
    return sum_vectors<T, kThreads>(x, grad.space, thread);
  Sum<T> sum = 0;
  TIP_ROLLED
  for (int64_t i = thread; i < grad.space; i += kThreads)
    sum += value(x[contiguous ? i : stride_offset(grad.axis, grad.axes, i)]);
  return sum;
}

// Space lies together, or anyhow: a channel of a sample is for kThreads threads, a warp or the block.
template <class T, int kThreads>
__global__ void __launch_bounds__(kSumThreads, 3) sum_rows(const __grid_constant__ ActivationGradByAxes grad,
                                                           float* alpha) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * (kSumThreads / kThreads) + threadIdx.x / kThreads;
  const bool inside = channel < grad.channels;
  for (int64_t sample = blockIdx.y; sample < grad.samples; sample += gridDim.y) {
    const T* x = reinterpret_cast<const T*>(grad.data) + sample * grad.sample_stride + channel * grad.channel_stride;
    Sum<T> sum = inside ? sum_of_warp(sum_space<T, kThreads>(grad, x, threadIdx.x % kThreads)) : 0;
    if constexpr (kThreads > kLanes) {
      __shared__ Sum<T> partial[kSumThreads / kLanes];
      __syncthreads();  // before the next sample overwrites it
      if (threadIdx.x % kLanes == 0) partial[threadIdx.x / kLanes] = sum;
      __syncthreads();
      sum = 0;
      for (int warp = 0; warp < kThreads / kLanes; ++warp) sum += partial[warp];
    }
    if (inside && threadIdx.x % kThreads == 0) alpha[sample * grad.channels + channel] = magnitude_of_mean(sum, grad);
  }
}

constexpr int kColumns = 8;  // vectors of channels that a block takes

// Channels lie together: a thread reads a vector of them at every kRows-th point of space.
template <class T>
__global__ void __launch_bounds__(kSumThreads, 3) sum_columns(const __grid_constant__ ActivationGradByAxes grad,
                                                              float* alpha) {
  constexpr int kSize = Vector<T>::kSize, kRows = kSumThreads / kColumns, kInFlight = 4;
  __shared__ Sum<T> partial[kRows][kColumns * kSize + 1];
  const int column = threadIdx.x % kColumns, row = threadIdx.x / kColumns;
  const int64_t channel = (static_cast<int64_t>(blockIdx.x) * kColumns + column) * kSize;
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kColumns * kSize + threadIdx.x;
  const int64_t stride = grad.axis[0].stride, points = channel < grad.channels ? grad.space : 0;
  for (int64_t sample = blockIdx.y; sample < grad.samples; sample += gridDim.y) {
    const T* x = reinterpret_cast<const T*>(grad.data) + sample * grad.sample_stride + channel;
    Sum<T> sum[kSize] = {};
    int64_t i = row;
    for (; i + (kInFlight - 1) * kRows < points; i += kInFlight * kRows) {
      Vector<T> read[kInFlight];
#pragma unroll
      for (int n = 0; n < kInFlight; ++n) read[n] = *reinterpret_cast<const Vector<T>*>(x + (i + n * kRows) * stride);
#pragma unroll
      for (int n = 0; n < kInFlight; ++n)
#pragma unroll
        for (int e = 0; e < kSize; ++e) sum[e] += value(read[n].element[e]);
    }
    for (; i < points; i += kRows) {
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
    alpha[sample * grad.channels + own] = magnitude_of_mean(total, grad);
  }
}

// alpha [samples, channels] to scores [channels]: a warp's threads take successive channels.
__global__ void __launch_bounds__(kSumThreads) sum_samples(const float* alpha, int64_t samples, int64_t channels,
                                                           float* scores) {
  constexpr int kRows = kSumThreads / kLanes;
  __shared__ float partial[kRows][kLanes];
  const int lane = threadIdx.x % kLanes, row = threadIdx.x / kLanes;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kLanes + lane;
  float sum = 0;
  if (channel < channels)
    for (int64_t sample = row; sample < samples; sample += kRows) sum += alpha[sample * channels + channel];
  partial[row][lane] = sum;
  __syncthreads();
  if (row > 0 || channel >= channels) return;
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
  return grad.channel_stride == 1 && grad.axes == 1 && grad.channels % kSize == 0 &&
         grad.axis[0].stride % kSize == 0 && grad.sample_stride % kSize == 0 &&
         reinterpret_cast<uintptr_t>(grad.data) % 16 == 0;
}

template <class T>
void launch_sums(const ActivationGradByAxes& grad, float* alpha, cudaStream_t stream) {
  constexpr int64_t kEnoughRows = 4096, kMostBlocksY = 65535;  // rows that fill a device with warps
  const unsigned int samples = static_cast<unsigned int>(std::min(grad.samples, kMostBlocksY));
  const auto blocks = [&](int64_t channels) { return dim3(blocks_for(grad.channels, channels), samples); };
  if (channels_lie_together<T>(grad)) {
    sum_columns<T><<<blocks(kColumns * Vector<T>::kSize), kSumThreads, 0, stream>>>(grad, alpha);
  } else if (grad.samples * grad.channels >= kEnoughRows) {
    sum_rows<T, kLanes><<<blocks(kSumThreads / kLanes), kSumThreads, 0, stream>>>(grad, alpha);
  } else {
    sum_rows<T, kSumThreads><<<blocks(1), kSumThreads, 0, stream>>>(grad, alpha);
  }
  check(cudaGetLastError());
}

}  // namespace

void launch_saliency(const ActivationGradByAxes& grad, float* alpha, float* scores, void* stream) {
  if (grad.channels == 0) return;
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (grad.samples > 0) {
    switch (grad.dtype) {
      case DType::f32: launch_sums<float>(grad, alpha, on); break;
      case DType::f64: launch_sums<double>(grad, alpha, on); break;
      case DType::bf16: launch_sums<BFloat16>(grad, alpha, on); break;
      case DType::f16: launch_sums<Half>(grad, alpha, on); break;
    }
  }
  sum_samples<<<blocks_for(grad.channels, kLanes), kSumThreads, 0, on>>>(alpha, grad.samples, grad.channels, scores);
  check(cudaGetLastError());
}

}  // namespace tip
