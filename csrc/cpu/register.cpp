// The ops on CPU tensors, registered with torch.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "core/clip.h"
#include "cpu/plan.h"
#include "cpu/thread_memory.h"
#include "cpu/variant.h"
#include "op/check_clip.h"
#include "op/inputs.h"

namespace tip {

namespace {

// Takes a step for this call alone, even if another thread is taking one. Refuses what must not be used: the last step
// has no successor, and those below 0 never occur.
uint64_t take_step(int64_t* state) {
  int64_t step = __atomic_load_n(state + 4, __ATOMIC_RELAXED);
  do {
    if (step < 0 || step == INT64_MAX) refuse("expected state with a step in [0, 2**63 - 1), got ", step);
  } while (!__atomic_compare_exchange_n(state + 4, &step, step + 1, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return static_cast<uint64_t>(step);
}

void perturb(const Arguments& arguments) {
  const Inputs inputs = checked_inputs(arguments);
  const Variant& kernels = variant();
  const PlannedRuns planned(inputs);
  RunTable table = planned.table();
  Portions portions(table);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), portions.count());
  const ScratchSizes sizes = kernels.scratch_sizes(table);
  const ThreadMemory memory(threads, sizes.floats());
  table.stream.step = take_step(inputs.state);  // from here on nothing can fail
  torch::stable::parallel_for(0, threads, 1, [&](int64_t thread, int64_t) {
    kernels.perturb_portions(table, portions, sizes, memory.of_thread(thread));
  });
}

void words_(Tensor out, Tensor state, int64_t tensor_id, int64_t first_position, int64_t generator) {
  const View view = check_words(out, state, tensor_id, first_position, generator);
  int32_t* data = data_of<int32_t>(view);
  const uint64_t* words = static_cast<const uint64_t*>(state.const_data_ptr());
  Stream stream;
  std::memcpy(stream.key, words, sizeof stream.key);
  stream.step = __atomic_load_n(words + 4, __ATOMIC_RELAXED);
  const auto draw = [&](int32_t* to) {
    variant().draw_words(stream, static_cast<int>(generator), static_cast<uint32_t>(tensor_id), first_position,
                         view.count, to);
  };
  if (view.is_contiguous()) return draw(data);
  // Not by torch's copy_, which writes to an inference tensor and raises then.
  const std::vector<int64_t> offsets = offsets_of(axes_of(view, 0));
  std::vector<int32_t> dense(offsets.size());
  draw(dense.data());
  for (size_t i = 0; i < dense.size(); ++i) data[offsets[i]] = dense[i];
}

// What the formula gives without elements: no sample adds nothing, and the mean of no pixels is not a number.
void fill_empty(float* scores, const View& grad) {
  std::fill_n(scores, grad.sizes[1], grad.sizes[0] == 0 ? 0.0f : std::numeric_limits<float>::quiet_NaN());
}

Tensor channel_saliency(Tensor tensor) {
  const View view = check_activation_grad(tensor);
  Tensor scores = torch::stable::new_empty(tensor, {view.sizes[1]}, torch::headeronly::ScalarType::Float);
  float* out = static_cast<float*>(scores.mutable_data_ptr());
  if (view.count == 0) {
    fill_empty(out, view);
    return scores;
  }
  const std::vector<Axis> space = space_axes(view);
  std::vector<int64_t> offsets;
  if (space.size() > 1) offsets = offsets_of(space);
  const ActivationGradByOffsets grad = {activation_grad_of(view, space), offsets.empty() ? nullptr : offsets.data(),
                                        space[0].stride};
  constexpr int64_t kElementsWorthAThread = 32768;
  const int64_t grain = 1 + kElementsWorthAThread / (1 + grad.samples * grad.space);
  torch::stable::parallel_for(0, grad.channels, grain,
                              [&](int64_t begin, int64_t end) { variant().channel_saliency(grad, out, begin, end); });
  return scores;
}

// Memory of a thread for the kernels that it works on together.
int64_t block_floats(const ClipViews& views) {
  int64_t taps = 0;
  for (const View& form : views.forms) taps = std::max(taps, form.sizes[0]);
  return taps * NormPiece::kKernels * static_cast<int64_t>(sizeof(double) / sizeof(float));
}

Tensor clip_scale(std::vector<Tensor> grads, std::optional<Tensor> grad_scale, Tensor state, double max_norm,
                  std::vector<Tensor> forms, std::optional<std::vector<int64_t>> form_ids) {
  const ClipViews views = check_clip(grads, grad_scale, state, max_norm, forms, form_ids);
  std::vector<NormTensor> tensors;
  tensors.reserve(views.grads.size());  // pieces point to its elements
  std::vector<NormPiece> pieces;
  for (size_t i = 0; i < views.grads.size(); ++i) {
    const View& grad = views.grads[i];
    if (grad.count == 0) continue;
    append_pieces(tensors.emplace_back(norm_tensor(grad.data, dtype_of(grad), grad, views.form(i), views.taps(i))),
                  pieces);
  }
  std::vector<double> sums(pieces.size());
  const int64_t count = static_cast<int64_t>(pieces.size());
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), count);
  const ThreadMemory memory(threads, block_floats(views));
  // OpenMP may give fewer threads than asked; a call then gets the shares of several.
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    double* block = reinterpret_cast<double*>(memory.of_thread(begin));
    for (int64_t thread = begin; thread < end; ++thread)
      for (int64_t i = thread; i < count; i += threads) sums[i] = variant().sum_of_squares(pieces[i], block);
  });
  double squares = 0;
  for (const double sum : sums) squares += sum;
  const float scale = grad_scale ? *data_of<const float>(views.grad_scale) : 1.0f;
  Tensor result = torch::stable::new_empty(state, {}, torch::headeronly::ScalarType::Float);
  *static_cast<float*>(result.mutable_data_ptr()) = clipped_scale(squares, scale, max_norm);
  return result;
}

std::string cpu_variant() { return variant().name; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tip_kernels, CPU, m) {
  m.impl("perturb_", TORCH_BOX(&perturb_op<perturb>));
  m.impl("channel_saliency", TORCH_BOX(&channel_saliency));
  m.impl("words_", TORCH_BOX(&words_));
  m.impl("clip_scale", TORCH_BOX(&clip_scale));
}

STABLE_TORCH_LIBRARY_IMPL(tip_kernels, CompositeExplicitAutograd, m) { m.impl("cpu_variant", TORCH_BOX(&cpu_variant)); }

}  // namespace tip
