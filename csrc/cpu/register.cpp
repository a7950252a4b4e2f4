// Registers the compiled CPU kernels with torch and chooses the instruction set they run on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "cpu/perturb.h"
#include "cpu/plan.h"
#include "cpu/saliency.h"

TIP_VARIANTS(TIP_DECLARE_VARIANT)
TIP_VARIANTS(TIP_DECLARE_SALIENCY)

namespace tip {

namespace {

struct Variant {
  const char* name;
  bool (*runs_here)();
  void (*perturb_portions)(const Work&, Portions&);
  void (*draw_words)(const Work&, uint32_t, int64_t, int64_t, int32_t*);
  void (*channel_saliency)(const ActivationGrad&, float*, int64_t, int64_t);
};

namespace runs_here {
[[maybe_unused]] bool generic() { return true; }
#if defined(__aarch64__)
bool neon() { return true; }
#endif
#if defined(__x86_64__)
bool avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
bool avx512() {
  return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif
}  // namespace runs_here

#define TIP_VARIANT_ROW(name) \
  {#name, runs_here::name, name::perturb_portions, name::draw_words, name::channel_saliency},
const Variant kVariants[] = {TIP_VARIANTS(TIP_VARIANT_ROW)};  // slowest first

std::string known_variants() {
  std::string names;
  for (const Variant& variant : kVariants) names += (names.empty() ? "" : ", ") + std::string(variant.name);
  return names;
}

// The fastest variant that runs here, or the one that TIP_KERNELS_CPU names.
const Variant& choose_variant() {
  const char* wanted = std::getenv("TIP_KERNELS_CPU");
  const Variant* best = nullptr;
  for (const Variant& variant : kVariants) {
    if (wanted && *wanted && std::strcmp(wanted, variant.name) != 0) continue;
    if (variant.runs_here()) best = &variant;
  }
  STD_TORCH_CHECK(best != nullptr, "expected TIP_KERNELS_CPU to be one of ", known_variants(),
                  " that this processor can run, got ", wanted);
  return *best;
}

const Variant& variant() {
  static const Variant& chosen = choose_variant();
  return chosen;
}

Work work_from(const Tensor& state, int64_t rounds) {
  Work work = {};
  std::memcpy(work.key, state.const_data_ptr(), sizeof work.key);
  work.rounds = static_cast<int>(rounds);
  work.grad_scale = 1.0f;
  work.keep = 1.0;
  return work;
}

// Takes a step for this call alone, even if another thread is taking one.
uint64_t take_step(Tensor& state) {
  int64_t* step = static_cast<int64_t*>(state.mutable_data_ptr()) + 4;
  return static_cast<uint64_t>(__atomic_fetch_add(step, 1, __ATOMIC_RELAXED));
}

void perturb_(std::vector<Tensor> grads, std::vector<Tensor> scores, std::vector<int64_t> selected,
              std::vector<int64_t> tensor_ids, std::vector<int64_t> basis_ids, std::vector<Tensor> bases,
              std::vector<int64_t> high_dims, Tensor std, std::optional<Tensor> floor_std,
              std::optional<Tensor> grad_scale, Tensor state, double keep, int64_t rounds,
              std::optional<std::vector<int64_t>> shards) {
  const Variant& kernels = variant();
  const Plan plan({grads, scores, selected, tensor_ids, basis_ids, bases, high_dims, std, floor_std,
                   grad_scale.has_value(), shards});
  Work work = work_from(state, rounds);
  work.step = take_step(state);
  work.keep = keep;
  if (grad_scale) work.grad_scale = *grad_scale->const_data_ptr<float>();
  work.runs = plan.runs().data();
  work.run_count = static_cast<int64_t>(plan.runs().size());
  Portions portions(work);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), portions.count());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { kernels.perturb_portions(work, portions); });
}

void words_(Tensor out, Tensor state, int64_t tensor_id, int64_t first_position, int64_t rounds) {
  Work work = work_from(state, rounds);
  std::memcpy(&work.step, static_cast<const int64_t*>(state.const_data_ptr()) + 4, sizeof work.step);
  variant().draw_words(work, static_cast<uint32_t>(tensor_id), first_position, out.numel(),
                       static_cast<int32_t*>(out.mutable_data_ptr()));
}

// Whether spatial element i lies at i * stride for one stride, which then is `stride`.
bool evenly_spaced(const Tensor& grad, int64_t& stride) {
  stride = 1;
  int64_t reach = 0;  // stride * elements of the dimensions seen, 0 before the first that has several
  for (int64_t dim = grad.dim() - 1; dim >= 2; --dim) {
    if (grad.size(dim) == 1) continue;
    if (reach == 0) reach = stride = grad.stride(dim);
    if (grad.stride(dim) != reach) return false;
    reach *= grad.size(dim);
  }
  return true;
}

Tensor channel_saliency(Tensor grad) {
  ActivationGrad view = {};
  view.dtype = dtype_of(grad);
  view.data = static_cast<const char*>(grad.const_data_ptr());
  view.samples = grad.size(0), view.channels = grad.size(1);
  view.sample_stride = grad.stride(0), view.channel_stride = grad.stride(1);
  view.space = 1;
  for (int64_t dim = 2; dim < grad.dim(); ++dim) view.space *= grad.size(dim);
  std::vector<int64_t> offsets;
  if (!evenly_spaced(grad, view.space_stride)) {
    offsets = spatial_offsets(grad);
    view.space_offsets = offsets.data();
  }
  Tensor scores = torch::stable::new_empty(grad, {view.channels}, torch::headeronly::ScalarType::Float);
  float* out = static_cast<float*>(scores.mutable_data_ptr());
  constexpr int64_t kElementsWorthAThread = 32768;
  const int64_t grain = 1 + kElementsWorthAThread / (1 + view.samples * view.space);
  torch::stable::parallel_for(0, view.channels, grain, [&](int64_t begin, int64_t end) {
    variant().channel_saliency(view, out, begin, end);
  });
  return scores;
}

std::string cpu_variant() { return variant().name; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tip_kernels, CPU, m) {
  m.impl("perturb_", TORCH_BOX(&perturb_));
  m.impl("channel_saliency", TORCH_BOX(&channel_saliency));
  m.impl("words_", TORCH_BOX(&words_));
}

STABLE_TORCH_LIBRARY_IMPL(tip_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_variant", TORCH_BOX(&cpu_variant));
}

}  // namespace tip
