// channel_saliency, compiled once per instruction set. Sums run in float32 (float64 for float64) over blocks of
// space, so that the error grows with the square root of a block and not with the image.
#include "cpu/saliency.h"

#include "cpu/half.h"

TIP_BEGIN_NAMESPACE

namespace {

constexpr int64_t kBlock = 64;  // elements of space summed before they join the total

// Space is contiguous (NCHW): one channel of one sample at a time.
template <class T>
float sum_contiguous(const T* x, int64_t count) {
  F total = {};
  int64_t i = 0;
  while (i + kLanes <= count) {
    F block = {};
    for (int64_t n = 0; n < kBlock && i + kLanes <= count; ++n, i += kLanes) block += widen(x + i);
    total += block;
  }
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += total[lane];
  for (; i < count; ++i) sum += value(x[i]);
  return sum;
}

template <class T>
void scores_contiguous(const ActivationGradByOffsets& grad, float* scores, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; ++c) {
    float score = 0;
    for (int64_t n = 0; n < grad.samples; ++n) {
      const int64_t offset = n * grad.sample_stride + c * grad.channel_stride;
      score += magnitude(sum_contiguous(reinterpret_cast<const T*>(grad.data) + offset, grad.space));
    }
    scores[c] = score / static_cast<float>(grad.space);
  }
}

// Channels are contiguous (channels_last): kLanes channels at a time, several vectors to use whole cache lines.
template <class T, int kVectors>
void scores_of_vectors(const ActivationGradByOffsets& grad, const T* data, float* scores) {
  F score[kVectors] = {};
  for (int64_t n = 0; n < grad.samples; ++n) {
    F total[kVectors] = {};
    const T* x = data + n * grad.sample_stride;
    for (int64_t s = 0; s < grad.space;) {
      F block[kVectors] = {};
      const int64_t stop = s + kBlock < grad.space ? s + kBlock : grad.space;
      for (; s < stop; ++s)
        for (int v = 0; v < kVectors; ++v) block[v] += widen(x + s * grad.space_stride + v * kLanes);
      for (int v = 0; v < kVectors; ++v) total[v] += block[v];
    }
    for (int v = 0; v < kVectors; ++v) score[v] += magnitude(total[v]);
  }
  for (int v = 0; v < kVectors; ++v) store(scores + v * kLanes, score[v] / static_cast<float>(grad.space));
}

// Any strides, and float64: one element at a time.
template <class T>
void scores_strided(const ActivationGradByOffsets& grad, float* scores, int64_t begin, int64_t end) {
  using A = decltype(value(T{}));
  for (int64_t c = begin; c < end; ++c) {
    A score = 0;
    for (int64_t n = 0; n < grad.samples; ++n) {
      const T* x = reinterpret_cast<const T*>(grad.data) + n * grad.sample_stride + c * grad.channel_stride;
      A total = 0;
      for (int64_t s = 0; s < grad.space;) {
        A block = 0;
        const int64_t stop = s + kBlock < grad.space ? s + kBlock : grad.space;
        for (; s < stop; ++s) block += value(x[grad.space_offsets ? grad.space_offsets[s] : s * grad.space_stride]);
        total += block;
      }
      score += magnitude(total);
    }
    scores[c] = static_cast<float>(score / static_cast<A>(grad.space));
  }
}

template <class T>
void scores_channels_last(const ActivationGradByOffsets& grad, float* scores, int64_t begin, int64_t end) {
  const T* data = reinterpret_cast<const T*>(grad.data);
  int64_t c = begin;
  for (; c + 4 * kLanes <= end; c += 4 * kLanes) scores_of_vectors<T, 4>(grad, data + c, scores + c);
  for (; c + kLanes <= end; c += kLanes) scores_of_vectors<T, 1>(grad, data + c, scores + c);
  scores_strided<T>(grad, scores, c, end);
}

template <class T>
void scores_as(const ActivationGradByOffsets& grad, float* scores, int64_t begin, int64_t end) {
  if (grad.space_offsets == nullptr && grad.space_stride == 1) return scores_contiguous<T>(grad, scores, begin, end);
  if (grad.space_offsets == nullptr && grad.channel_stride == 1)
    return scores_channels_last<T>(grad, scores, begin, end);
  scores_strided<T>(grad, scores, begin, end);
}

}  // namespace

void channel_saliency(const ActivationGradByOffsets& grad, float* scores, int64_t begin, int64_t end) {
  switch (grad.dtype) {
    case DType::f32: return scores_as<float>(grad, scores, begin, end);
    case DType::f64: return scores_strided<double>(grad, scores, begin, end);
    case DType::bf16: return scores_as<BFloat16>(grad, scores, begin, end);
    case DType::f16: return scores_as<Half>(grad, scores, begin, end);
  }
}

TIP_END_NAMESPACE
