// What every compiled library checks of a call before it reads, writes or takes a step: whatever the arguments, an op
// touches no memory but that of its tensors. tip_kernels/backends/_checks.py does the same for the other backends.
//
// What users get wrong is explained by _op/plan.py and _op/call.py; here is what would be unsafe. Values that lie
// on a GPU cannot be read without a wait, so there only metadata is checked.
#pragma once

#include <algorithm>
#include <vector>

#include "core/generate.h"
#include "core/inputs.h"
#include "op/aliases.h"
#include "op/arguments.h"
#include "op/view.h"

namespace tip {

constexpr int64_t kMostTensors = int64_t{1} << 23;   // of a call
constexpr int64_t kMostStreams = int64_t{1} << 24;   // that the counter of a block can tell apart
constexpr int64_t kMostBlocks = int64_t{1} << 40;    // of a tensor
constexpr int64_t kMostElements = int64_t{1} << 41;  // of a whole tensor: two words each at most, four words a block

// The tensors among the arguments. `scores` holds nothing for a tensor without a high band.
struct Views {
  std::vector<View> grads, scores, bases, amplitudes;
  View std, floor_std, grad_scale, state;
};

inline void check_generator(int64_t generator) {
  if (!is_chacha(generator) && generator != kPhilox)
    refuse("expected generator to be 8, 12 or 20 (ChaCha) or 10 (Philox), got ", generator);
}

inline void check_device(const View& view, const View& state, Name name) {
  if (view.device_type != state.device_type || view.device_index != state.device_index)
    refuse("expected ", name, " on the device of state, got another");
}

// A vector of a dtype, or with `dims` 0 or 2 a number or a matrix, whose elements follow one another.
inline View table_of(const Tensor& tensor, Name name, int32_t dtype, int64_t dims, const View& state) {
  const View view = view_of(tensor, name);
  if (view.dtype != dtype) refuse("expected ", name, " of torch's dtype ", dtype, ", got dtype ", view.dtype);
  if (view.dims != dims) refuse("expected ", name, " of ", dims, " dimensions, got ", view.dims);
  if (!view.is_contiguous()) refuse("expected ", name, " to be contiguous, got stride ", view.strides[dims - 1]);
  check_device(view, state, name);
  return view;
}

inline View state_of(const Tensor& tensor, bool written) {
  const View view = view_of(tensor, {"state"}, written);
  if (view.dtype != dtype_numbers().i64 || view.dims != 1 || view.sizes[0] != 6 || view.strides[0] != 1)
    refuse("expected state to be a contiguous int64 tensor of 6 elements, got dtype ", view.dtype, ", ", view.count,
           " elements in ", view.dims, " dimensions");
  return view;
}

// Whether the product of numbers that are not negative is within a limit.
inline bool within(int64_t limit, std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors)
    if (__builtin_mul_overflow(product, factor, &product)) return false;
  return product <= limit;
}

// Whether two elements may lie at one address: unless sorted strides step over one another, as those of every view of
// dense memory do.
inline bool overlaps_itself(const View& view) {
  int64_t reach = 0;
  int64_t dim = view.dims;
  for (; dim > 0; --dim) {  // row-major needs no sorting
    if (view.sizes[dim - 1] == 1) continue;
    if (view.strides[dim - 1] <= reach) break;
    reach += view.strides[dim - 1] * (view.sizes[dim - 1] - 1);
  }
  if (dim == 0) return false;
  struct Dimension {
    int64_t size, stride;
  };
  Dimension sorted[kMostDims];
  int64_t count = 0;
  for (dim = 0; dim < view.dims; ++dim)
    if (view.sizes[dim] != 1) sorted[count++] = {view.sizes[dim], view.strides[dim]};
  std::sort(sorted, sorted + count, [](Dimension a, Dimension b) { return a.stride < b.stride; });
  reach = 0;
  for (const Dimension* next = sorted; next < sorted + count; ++next) {
    if (next->stride <= reach) return true;
    reach += next->stride * (next->size - 1);
  }
  return false;
}

// A float64 matrix [K, K].
inline View square_of(const Tensor& tensor, Name name, const View& state) {
  const View view = table_of(tensor, name, dtype_numbers().f64, 2, state);
  if (view.sizes[0] != view.sizes[1] || view.count == 0 || view.sizes[0] > INT32_MAX)
    refuse("expected ", name, " of shape [K, K], got [", view.sizes[0], ", ", view.sizes[1], "]");
  return view;
}

inline void check_bases(const Arguments& given, Views& views) {
  if (given.high_dims.size() != given.bases.size())
    refuse("expected high_dims of length ", given.bases.size(), ", one per basis, got ", given.high_dims.size());
  views.bases.reserve(given.bases.size());
  for (size_t b = 0; b < given.bases.size(); ++b) {
    const Name name = {"bases", static_cast<int64_t>(b)};
    const View& view = views.bases.emplace_back(square_of(given.bases[b], name, views.state));
    if (given.high_dims[b] < 1 || given.high_dims[b] > view.sizes[0])
      refuse("expected high_dims[", b, "] in [1, ", view.sizes[0], "], got ", given.high_dims[b]);
  }
}

inline void check_amplitudes(const Arguments& given, Views& views) {
  views.amplitudes.reserve(given.amplitudes.size());
  for (size_t a = 0; a < given.amplitudes.size(); ++a) {
    const Name name = {"amplitudes", static_cast<int64_t>(a)};
    const View view = table_of(given.amplitudes[a], name, dtype_numbers().f32, 2, views.state);
    if (view.sizes[0] != 2 || view.count == 0)
      refuse("expected ", name, " of shape [2, K], got [", view.sizes[0], ", ", view.sizes[1], "]");
    views.amplitudes.push_back(view);
  }
}

// Index of the tensor's amplitudes, -1 for none.
inline int64_t amplitude_id_of(const Arguments& given, size_t i) {
  return given.amplitude_ids ? (*given.amplitude_ids)[i] : -1;
}

inline Shard shard_of(const Arguments& given, const View& grad, size_t i) {
  if (!given.shards) return {0, 0, grad.size(1)};
  const int64_t* shard = given.shards->data() + 3 * i;
  return {shard[0], shard[1], shard[2]};
}

// The shard; refuses one outside of what the noise has words for.
inline Shard check_shard(const Arguments& given, const View& grad, size_t i) {
  const Shard shard = shard_of(given, grad, i);
  int64_t channels, end_kernel;
  if (shard.first_channel < 0 || shard.first_kernel < 0 ||
      __builtin_add_overflow(shard.first_kernel, grad.size(1), &end_kernel) || end_kernel > shard.kernels)
    refuse("expected shards[", i, "] with room for ", grad.size(1), " kernels a channel, got (", shard.first_channel,
           ", ", shard.first_kernel, ", ", shard.kernels, ")");
  if (__builtin_add_overflow(shard.first_channel, grad.size(0), &channels) ||
      !within(kMostElements, {channels, shard.kernels, grad.taps()}))
    refuse("expected grads[", i, "] of at most 2**41 elements in the whole, got more");
  return shard;
}

inline View check_scores(const Arguments& given, const Views& views, const View& grad, size_t i,
                         int64_t first_channel) {
  const Name name = {"scores", static_cast<int64_t>(i)};
  const View scores = table_of(given.scores[i], name, dtype_numbers().f32, 1, views.state);
  if (scores.sizes[0] < first_channel + grad.sizes[0])
    refuse("expected ", name, " of all channels, at least ", first_channel + grad.sizes[0], ", got ", scores.sizes[0]);
  if (given.selected[i] < 0 || given.selected[i] > scores.sizes[0])
    refuse("expected selected[", i, "] in [0, ", scores.sizes[0], "], got ", given.selected[i]);
  return scores;
}

// The amplitudes of a tensor whose kernels have so many taps; 0 without a high band.
inline void check_amplitude_id(const Arguments& given, const Views& views, int64_t taps, size_t i) {
  const int64_t id = amplitude_id_of(given, i), count = static_cast<int64_t>(views.amplitudes.size());
  if (id < -1 || id >= count) refuse("expected amplitude_ids[", i, "] in [-1, ", count, "), got ", id);
  if (id >= 0 && views.amplitudes[id].sizes[1] != taps)
    refuse("expected amplitudes[", id, "] of as many coefficients as grads[", i, "] has, ", taps, ", got ",
           views.amplitudes[id].sizes[1]);
}

inline void check_grad(const Arguments& given, Views& views, size_t i) {
  const Name name = {"grads", static_cast<int64_t>(i)};
  const View& grad = views.grads.emplace_back(view_of(given.grads[i], name, true));
  View& scores = views.scores.emplace_back();
  if (!is_floating(grad))
    refuse("expected ", name, " of dtype float32, float64, bfloat16 or float16, got torch's dtype ", grad.dtype);
  check_device(grad, views.state, name);
  const int64_t id = given.tensor_ids[i], basis = given.basis_ids[i];
  const int64_t ids = std::min(kMostTensors, std::min(views.std.count, views.floor_std.count));
  if (id < 0 || id >= ids) refuse("expected tensor_ids[", i, "] in [0, ", ids, "), got ", id);
  const int64_t bases = static_cast<int64_t>(views.bases.size());
  if (basis < -1 || basis >= bases) refuse("expected basis_ids[", i, "] in [-1, ", bases, "), got ", basis);
  check_amplitude_id(given, views, basis < 0 ? 0 : views.bases[basis].sizes[0], i);
  if (grad.count == 0) return;
  if (overlaps_itself(grad)) refuse("expected ", name, " without overlapping memory, got strides that repeat elements");
  const Shard shard = check_shard(given, grad, i);
  if (basis < 0) return;
  if (grad.dims < 3 || grad.taps() != views.bases[basis].sizes[0])
    refuse("expected ", name, " with kernels of ", views.bases[basis].sizes[0], " taps, as bases[", basis,
           "] has, got ", grad.taps(), " in ", grad.dims, " dimensions");
  scores = check_scores(given, views, grad, i, shard.first_channel);
}

inline void check_aliases(const Views& views) {
  Aliases aliases(views.grads.size() + views.scores.size() + views.bases.size() + views.amplitudes.size() + 4);
  for (const View& grad : views.grads) aliases.add(grad, true);
  for (const std::vector<View>* list : {&views.scores, &views.bases, &views.amplitudes})
    for (const View& view : *list) aliases.add(view, false);
  for (const View* view : {&views.std, &views.floor_std, &views.grad_scale, &views.state}) aliases.add(*view, false);
  aliases.check();
}

inline void check_lengths(const Arguments& given) {
  const size_t count = given.grads.size();
  const auto check = [=](const char* name, size_t length, size_t wanted) {
    if (length != wanted) refuse("expected ", name, " of length ", wanted, ", got ", length);
  };
  check("scores", given.scores.size(), count);
  check("selected", given.selected.size(), count);
  check("tensor_ids", given.tensor_ids.size(), count);
  check("basis_ids", given.basis_ids.size(), count);
  if (given.shards) check("shards", given.shards->size(), 3 * count);
  if (given.amplitude_ids) check("amplitude_ids", given.amplitude_ids->size(), count);
}

// Raises std::runtime_error unless perturb_ can run; nothing has changed then.
inline Views check_perturb(const Arguments& given) {
  check_generator(given.generator);
  if (!(given.keep >= 0.0 && given.keep <= 1.0)) refuse("expected keep in [0, 1], got ", given.keep);
  check_lengths(given);
  const int32_t f32 = dtype_numbers().f32;
  Views views = {};
  views.state = state_of(given.state, true);
  views.std = table_of(given.std, {"std"}, f32, 1, views.state);
  views.floor_std = given.floor_std ? table_of(*given.floor_std, {"floor_std"}, f32, 1, views.state) : views.std;
  if (given.grad_scale) views.grad_scale = table_of(*given.grad_scale, {"grad_scale"}, f32, 0, views.state);
  check_bases(given, views);
  check_amplitudes(given, views);
  views.grads.reserve(given.grads.size());
  views.scores.reserve(given.grads.size());
  for (size_t i = 0; i < given.grads.size(); ++i) check_grad(given, views, i);
  check_aliases(views);
  return views;
}

// Words of a block of a generator.
inline int64_t block_words(int64_t generator) { return generator == kPhilox ? 4 : 16; }

// Raises std::runtime_error unless words_ can run. It shows the words of any step, used or not.
inline View check_words(const Tensor& out, const Tensor& state, int64_t tensor_id, int64_t first_position,
                        int64_t generator) {
  check_generator(generator);
  const View key = state_of(state, false);
  const View view = view_of(out, {"out"}, true);
  if (view.dtype != dtype_numbers().i32) refuse("expected out of dtype int32, got torch's dtype ", view.dtype);
  check_device(view, key, {"out"});
  if (view.count > 0 && overlaps_itself(view))
    refuse("expected out without overlapping memory, got strides that repeat elements");
  if (tensor_id < 0 || tensor_id >= kMostStreams) refuse("expected tensor_id in [0, 2**24), got ", tensor_id);
  const int64_t words = kMostBlocks * block_words(generator);
  if (first_position < 0 || first_position > words - std::min(view.count, words) || view.count > words)
    refuse("expected words below position ", words, ", got first_position ", first_position, " and ", view.count);
  Aliases aliases(2);
  aliases.add(view, true);
  aliases.add(key, false);
  aliases.check();
  return view;
}

// Raises std::runtime_error unless channel_saliency can run.
inline View check_activation_grad(const Tensor& grad) {
  const View view = view_of(grad, {"activation_grad"});
  if (!is_floating(view))
    refuse("expected activation_grad of dtype float32, float64, bfloat16 or float16, got torch's dtype ", view.dtype);
  if (view.dims < 2) refuse("expected activation_grad of at least 2 dimensions, got ", view.dims);
  return view;
}

}  // namespace tip
