#include "cpu/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "core/address.h"
#include "core/basis3x3.h"
#include "core/grid.h"
#include "core/rank.h"

namespace tip {

namespace {

std::vector<int64_t> tap_offsets_of(const View& grad) {
  std::vector<Dimension> kernel;
  for (int64_t dim = 2; dim < grad.dims; ++dim) kernel.push_back({grad.sizes[dim], grad.strides[dim]});
  return offsets_of(kernel);
}

bool counts_up(const std::vector<int64_t>& offsets) {
  for (size_t i = 0; i < offsets.size(); ++i)
    if (offsets[i] != static_cast<int64_t>(i)) return false;
  return true;
}

// Whether synthesize_3x3 does what this basis does; nine taps can also be those of a 1-D kernel.
bool is_all_but_dc_3x3(const Basis& basis) {
  if (basis.taps != 9 || basis.high_dim != 8) return false;
  float z[8] = {0.5f, -1.0f, 2.0f, 3.0f, -4.0f, 5.0f, 6.0f, -7.0f}, y[9];
  synthesize_3x3(z, y);
  for (int k = 0; k < 9; ++k) {
    double sum = 0;
    for (int j = 0; j < 8; ++j) sum += basis.exact[k * 9 + j] * z[j];
    if (!(std::abs(sum - kGain3x3 * y[k]) <= 1e-5)) return false;  // nor is NaN
  }
  return true;
}

Packing packing_of(const TensorWork& tensor, Noise noise) {
  constexpr int64_t kSilentElements = 256;  // cost about as much time as a group of words and its noise
  if (noise == Noise::none) return {(kSilentElements + tensor.taps - 1) / tensor.taps, 1};
  const int64_t words = pitch(noise == Noise::band ? tensor.basis->high_dim : tensor.taps);
  return words <= kGroup ? Packing{kGroup / words, 1} : Packing{1, words / kGroup};
}

}  // namespace

std::vector<char> select_channels(const float* scores, int64_t channels, int64_t count) {
  std::vector<char> selected(channels, count >= channels);
  if (count <= 0 || count >= channels) return selected;
  std::vector<uint32_t> keys(channels);
  for (int64_t c = 0; c < channels; ++c) keys[c] = rank_key(scores[c]);
  std::vector<uint32_t> order = keys;
  std::nth_element(order.begin(), order.begin() + (count - 1), order.end(), std::greater<>());
  const uint32_t last = order[count - 1];
  int64_t ties = count - std::count_if(keys.begin(), keys.end(), [=](uint32_t key) { return key > last; });
  for (int64_t c = 0; c < channels; ++c) selected[c] = keys[c] > last || (keys[c] == last && ties-- > 0);
  return selected;
}

Plan::Plan(const Arguments& arguments, const Views& views)
    : floor_(arguments.floor_std.has_value()), scaled_(arguments.grad_scale.has_value()) {
  add_bases(arguments, views);
  for (size_t i = 0; i < views.grads.size(); ++i) add_tensor(arguments, views, i);
}

void Plan::add_bases(const Arguments& arguments, const Views& views) {
  bases_.reserve(views.bases.size());
  for (size_t b = 0; b < views.bases.size(); ++b) {
    const int64_t taps = views.bases[b].sizes[0];
    const double* exact = reinterpret_cast<const double*>(views.bases[b].data);
    rounded_.emplace_back(exact, exact + taps * taps);
    bases_.push_back({taps, arguments.high_dims[b], exact, rounded_.back().data(), false});
    bases_.back().all_but_dc_3x3 = is_all_but_dc_3x3(bases_.back());
  }
}

void Plan::add_tensor(const Arguments& arguments, const Views& views, size_t i) {
  const View& grad = views.grads[i];
  const int64_t id = arguments.tensor_ids[i], basis = arguments.basis_ids[i];
  const bool channels_differ = basis >= 0 && arguments.selected[i] > 0;
  if (grad.count == 0 || (!channels_differ && !floor_ && !scaled_)) return;

  TensorWork& tensor = tensors_.emplace_back();
  tensor.dtype = dtype_of(grad);
  tensor.id = static_cast<uint32_t>(id);
  tensor.basis = basis >= 0 ? &bases_[basis] : nullptr;
  tensor.std = reinterpret_cast<const float*>(views.std.data)[id];
  tensor.floor_std = floor_ ? reinterpret_cast<const float*>(views.floor_std.data)[id] : 0.0f;
  tensor.grid = grid_step(tensor.floor_std, tensor.basis ? tensor.std : 0.0f);
  tap_offsets_.push_back(tensor.basis ? tap_offsets_of(grad) : std::vector<int64_t>{0});
  tensor.tap_offsets = tap_offsets_.back().data();
  tensor.taps = static_cast<int64_t>(tap_offsets_.back().size());
  tensor.taps_dense = counts_up(tap_offsets_.back());

  Shard shard = {0, 0, grad.size(1)};
  if (arguments.shards) {
    const int64_t* given = arguments.shards->data() + 3 * i;
    shard = {given[0], given[1], given[2]};
  }
  if (!tensor.basis) return add_elements(tensor, grad, shard);
  const View& scores = views.scores[i];
  add_channels(tensor, grad, shard,
               select_channels(reinterpret_cast<const float*>(scores.data), scores.sizes[0], arguments.selected[i]));
}

void Plan::add_channels(const TensorWork& tensor, const View& grad, Shard shard, const std::vector<char>& selected) {
  const int64_t channels = grad.sizes[0], kernels = grad.sizes[1];
  // The stride of a dimension of one element means nothing and may be anything.
  const int64_t channel_stride = channels > 1 ? grad.strides[0] : tensor.taps;
  const int64_t channel_bytes = channel_stride * bytes_of(tensor.dtype);
  const int64_t stride = kernels > 1 ? grad.strides[1] : channel_stride;
  const Noise hit = floor_ ? Noise::full : Noise::band, other = floor_ ? Noise::white : Noise::none;
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t channel = shard.first_channel + c;
    const bool is_hit = selected[channel];
    if (!is_hit && !floor_ && !scaled_) continue;
    const int64_t first = channel * shard.kernels_per_channel + shard.first_kernel;
    add_run(tensor, is_hit ? hit : other, grad.data + c * channel_bytes, stride, first, kernels);
  }
}

void Plan::add_elements(const TensorWork& tensor, const View& grad, Shard shard) {
  struct Axis {
    int64_t size, stride, index_stride;
  };
  std::vector<Axis> dims;  // innermost first; neighbors that continue one another are merged
  const int64_t taps = taps_of(grad);
  int64_t index_stride = 1;
  for (int64_t dim = std::max<int64_t>(grad.dims, 2) - 1; dim >= 0; --dim) {
    if (dim == 1) index_stride = taps;
    if (dim == 0) index_stride = taps * shard.kernels_per_channel;
    const Axis next = {grad.size(dim), grad.stride(dim), index_stride};
    index_stride *= next.size;
    if (next.size == 1) continue;
    if (!dims.empty() && dims.back().stride * dims.back().size == next.stride &&
        dims.back().index_stride * dims.back().size == next.index_stride) {
      dims.back().size *= next.size;
    } else {
      dims.push_back(next);
    }
  }
  if (dims.empty() || dims[0].index_stride != 1) dims.insert(dims.begin(), {1, 1, 1});

  const Noise noise = floor_ ? Noise::white : Noise::none;
  const int64_t base = (shard.first_channel * shard.kernels_per_channel + shard.first_kernel) * taps;
  std::vector<int64_t> place(dims.size(), 0);
  for (bool more = true; more;) {
    int64_t offset = 0, index = base;
    for (size_t d = 1; d < dims.size(); ++d) {
      offset += place[d] * dims[d].stride;
      index += place[d] * dims[d].index_stride;
    }
    add_run(tensor, noise, grad.data + offset * bytes_of(tensor.dtype), dims[0].stride, index, dims[0].size);
    more = false;
    for (size_t d = 1; d < dims.size() && !more; ++d) {
      more = ++place[d] < dims[d].size;
      if (!more) place[d] = 0;
    }
  }
}

void Plan::add_run(const TensorWork& tensor, Noise noise, char* data, int64_t stride, int64_t first, int64_t units) {
  const int64_t done = runs_.empty() ? 0 : runs_.back().end;
  if (!runs_.empty()) {
    Run& last = runs_.back();
    const char* next = last.data + last.units * last.unit_stride * bytes_of(tensor.dtype);
    if (last.tensor == &tensor && last.noise == noise && next == data && last.first + last.units == first) {
      const int64_t before = last.end - last.lanes() * last.packing.groups;
      last.units += units;
      last.end = before + last.lanes() * last.packing.groups;
      return;
    }
  }
  Run run = {&tensor, noise, packing_of(tensor, noise), data, stride, first, units, 0};
  run.end = done + run.lanes() * run.packing.groups;
  runs_.push_back(run);
}

}  // namespace tip
