#include "cpu/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "core/basis3x3.h"
#include "core/grid.h"
#include "core/rank.h"
#include "core/units.h"

namespace tip {

namespace {

// In units of its gain, wave c of core/basis3x3.h, in float64; the last is DC.
void wave_3x3(int c, double* y) {
  double z[8] = {};
  if (c < 8) z[c] = kExactGain3x3;
  synthesize_3x3<double>(z, y, Constant3x3<double>{c < 8 ? 0.0 : kExactDcGain3x3});
}

// Which columns of a basis the waves of core/basis3x3.h are; nine taps can also be those of a 1-D kernel.
Order3x3 order_3x3(const BasisInput& basis) {
  Order3x3 order = {basis.taps == 9, {}};
  for (int c = 0; order.known && c < 9; ++c) {
    double y[9];
    wave_3x3(c, y);
    const auto is_column = [&](int j) {
      for (int k = 0; k < 9; ++k)
        if (!(std::abs(basis.matrix[k * 9 + j] - y[k]) <= 1e-13)) return false;  // nor is NaN
      return true;
    };
    int j = 0;
    while (j < 9 && !is_column(j)) ++j;
    order.known = j < 9;
    order.column[c] = static_cast<uint8_t>(j);
  }
  return order;
}

bool is_all_but_dc_3x3(const Order3x3& order, int64_t high_dim) {
  for (int c = 0; c < 9; ++c)
    if (order.column[c] != c) return false;
  return order.known && high_dim == 8;
}

Packing packing_without_noise(int64_t taps) {
  constexpr int64_t kSilentElements = 256;  // cost about as much time as a group of words and its noise
  return {(kSilentElements + taps - 1) / taps, 1};
}

// Whether each channel is among the `count` highest-scored: NaN ranks highest, ties go to the lower index.
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

// Calls f(offset, index) for every point of the axes from the second on: how far it lies from the first point, in
// memory and among units.
template <class F>
void for_each_line(const std::vector<Axis>& axes, F f) {
  std::vector<int64_t> at(axes.size(), 0);
  for (bool more = true; more;) {
    int64_t offset = 0, index = 0;
    for (size_t a = 1; a < axes.size(); ++a) {
      offset += at[a] * axes[a].stride;
      index += at[a] * axes[a].index_stride;
    }
    f(offset, index);
    more = false;
    for (size_t a = 1; a < axes.size() && !more; ++a) {
      more = ++at[a] < axes[a].size;
      if (!more) at[a] = 0;
    }
  }
}

}  // namespace

PlannedRuns::PlannedRuns(const Inputs& inputs) : inputs_(inputs) {
  bases_.reserve(inputs.bases.size());
  for (const BasisInput& basis : inputs.bases) add_basis(basis);
  for (const TensorInput& tensor : inputs.tensors)
    if (inputs.changes(tensor)) add_tensor(tensor);
}

RunTable PlannedRuns::table() const {
  RunTable table = {};
  std::memcpy(table.stream.key, inputs_.state, sizeof table.stream.key);
  table.generator = inputs_.generator;
  table.grad_scale = inputs_.is_scaled() ? *inputs_.grad_scale : 1.0f;
  table.keep = inputs_.keep;
  table.runs = runs_.data();
  table.run_count = static_cast<int64_t>(runs_.size());
  return table;
}

void PlannedRuns::add_basis(const BasisInput& input) {
  rounded_.emplace_back(input.matrix, input.matrix + input.taps * input.taps);
  const Order3x3 order = order_3x3(input);
  bases_.push_back({input.taps, input.high_dim, input.matrix, rounded_.back().data(), order,
                    is_all_but_dc_3x3(order, input.high_dim)});
}

CoefficientAmounts PlannedRuns::add_amounts(std::vector<double> exact) {
  rounded_.emplace_back(exact.begin(), exact.end());
  exact_.push_back(std::move(exact));
  return {exact_.back().data(), rounded_.back().data()};
}

// What multiplies normals of a tensor with these amplitudes, and its grid.
void PlannedRuns::set_amounts(const float* amplitudes, RunTensor& tensor) {
  const Basis& basis = *tensor.basis;
  const int64_t taps = basis.taps;
  const auto gain = [](bool in_order_3x3, int64_t c) {
    return !in_order_3x3 ? 1.0 : c < 8 ? kExactGain3x3 : kExactDcGain3x3;
  };
  std::vector<double> selected(taps), others(taps);
  for (int64_t j = 0; j < taps; ++j) {
    const double amount = j < basis.high_dim ? tensor.std : tensor.floor_std;
    selected[j] = amount * amplitudes[j] * gain(basis.all_but_dc_3x3, j);
    const int64_t column = basis.order_3x3.known ? basis.order_3x3.column[j] : j;
    others[j] = static_cast<double>(tensor.floor_std) * amplitudes[taps + column] * gain(basis.order_3x3.known, j);
  }
  tensor.of_selected = add_amounts(std::move(selected));
  tensor.of_others = add_amounts(std::move(others));
  tensor.grid = grid_step(tensor.floor_std, tensor.std, amplitudes, taps, basis.high_dim);
}

void PlannedRuns::add_tensor(const TensorInput& input) {
  const bool has_band = input.basis >= 0;
  const std::vector<Axis> taps = has_band ? axes_of(input.shape, 2) : std::vector<Axis>{{1, 1, 1}};
  tap_offsets_.push_back(offsets_of(taps));

  RunTensor& tensor = tensors_.emplace_back();
  tensor.dtype = input.dtype;
  tensor.id = static_cast<uint32_t>(input.id);
  tensor.basis = has_band ? &bases_[input.basis] : nullptr;
  tensor.tap_offsets = tap_offsets_.back().data();
  tensor.taps = static_cast<int64_t>(tap_offsets_.back().size());
  tensor.taps_dense = are_contiguous(taps);
  tensor.used = used_words(tensor.taps, has_band ? tensor.basis->high_dim : 0, inputs_.has_floor());
  tensor.std = inputs_.std[input.id];
  tensor.floor_std = inputs_.has_floor() ? inputs_.floor_std[input.id] : 0.0f;
  tensor.grid = grid_step(tensor.floor_std, has_band ? tensor.std : 0.0f);
  if (input.amplitudes) set_amounts(input.amplitudes, tensor);
  has_band ? add_channels(input, tensor) : add_elements(input, tensor);
}

void PlannedRuns::add_channels(const TensorInput& input, const RunTensor& tensor) {
  const Shape& shape = input.shape;
  const int64_t channels = shape.sizes[0], kernels = shape.sizes[1];
  // The stride of a dimension of one element means nothing and may be anything.
  const int64_t channel_stride = channels > 1 ? shape.strides[0] : tensor.taps;
  const int64_t stride = kernels > 1 ? shape.strides[1] : channel_stride;
  const int64_t channel_bytes = channel_stride * bytes_of(tensor.dtype);
  const std::vector<char> selected = select_channels(input.scores, input.channels, input.selected);
  const Noise of_selected = inputs_.noise_of(input, true), of_others = inputs_.noise_of(input, false);
  const int64_t first = first_unit(input);
  for (int64_t c = 0; c < channels; ++c) {
    const Noise noise = selected[input.shard.first_channel + c] ? of_selected : of_others;
    if (noise == Noise::untouched) continue;
    add_run(tensor, noise, input.data + c * channel_bytes, stride, first + c * input.shard.kernels, kernels);
  }
}

void PlannedRuns::add_elements(const TensorInput& input, const RunTensor& tensor) {
  const std::vector<Axis> axes = element_axes(input);
  const Noise noise = inputs_.noise_of(input, false);
  const int64_t first = first_unit(input);
  for_each_line(axes, [&](int64_t offset, int64_t index) {
    add_run(tensor, noise, input.data + offset * bytes_of(tensor.dtype), axes[0].stride, first + index, axes[0].size);
  });
}

// Adds a run, or lets the last one grow if this one goes on where that one ends.
void PlannedRuns::add_run(const RunTensor& tensor, Noise noise, char* data, int64_t stride, int64_t first,
                          int64_t units) {
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
  const int64_t before = runs_.empty() ? 0 : runs_.back().end;
  const Packing packing = noise == Noise::none ? packing_without_noise(tensor.taps) : packing_of(tensor.used);
  Run run = {&tensor, noise, packing, data, stride, first, units, 0};
  run.end = before + run.lanes() * run.packing.groups;
  runs_.push_back(run);
}

}  // namespace tip
