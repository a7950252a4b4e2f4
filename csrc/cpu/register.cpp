// Registers the compiled CPU kernels with torch and chooses the instruction set they run on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "cpu/perturb.h"
#include "cpu/plan.h"
#include "cpu/saliency.h"
#include "op/check_arguments.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

TIP_VARIANTS(TIP_DECLARE_VARIANT)
TIP_VARIANTS(TIP_DECLARE_SALIENCY)

namespace tip {

namespace {

struct Variant {
  const char* name;
  bool (*runs_here)();
  ScratchSizes (*scratch_sizes)(const Work&);
  void (*perturb_portions)(const Work&, Portions&, const ScratchSizes&, float*);
  void (*draw_words)(const Work&, uint32_t, int64_t, int64_t, int32_t*);
  void (*channel_saliency)(const ActivationGrad&, float*, int64_t, int64_t);
};

namespace runs_here {
[[maybe_unused]] bool generic() { return true; }
#if defined(__aarch64__)
bool neon() { return true; }
#endif
#if defined(__x86_64__)
// Clang before 19 knows no __builtin_cpu_supports("f16c"). That the system saves the registers, avx2() asks.
bool f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}
[[maybe_unused]] bool avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c(); }
[[maybe_unused]] bool avx512() {
  return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif
}  // namespace runs_here

#define TIP_VARIANT_ROW(name) \
  {#name, runs_here::name, name::scratch_sizes, name::perturb_portions, name::draw_words, name::channel_saliency},
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

// Takes a step for this call alone, even if another thread is taking one. Refuses what must not be used: the last step
// has no successor, and those below 0 never occur.
uint64_t take_step(const View& state) {
  int64_t* place = reinterpret_cast<int64_t*>(state.data) + 4;
  int64_t step = __atomic_load_n(place, __ATOMIC_RELAXED);
  do {
    if (step < 0 || step == INT64_MAX) refuse("expected state with a step in [0, 2**63 - 1), got ", step);
  } while (!__atomic_compare_exchange_n(place, &step, step + 1, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return static_cast<uint64_t>(step);
}

// Scratch memory of all threads, each at addresses that no other thread's cache lines reach.
class Memory {
 public:
  Memory(int64_t threads, int64_t floats) : stride_((floats + kAlign - 1) / kAlign * kAlign) {
    const size_t bytes = static_cast<size_t>(threads * stride_) * sizeof(float);
    if (bytes == 0) return;
    memory_.reset(static_cast<float*>(std::aligned_alloc(kAlign * sizeof(float), bytes)));
    if (!memory_) refuse("expected ", bytes, " bytes of memory for ", threads, " threads, got none");
  }
  float* of_thread(int64_t thread) const { return memory_.get() + thread * stride_; }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  static constexpr int64_t kAlign = 32;  // floats: two cache lines, since processors fetch them in pairs
  int64_t stride_;
  std::unique_ptr<float, Free> memory_;
};

void perturb_(std::vector<Tensor> grads, std::vector<Tensor> scores, std::vector<int64_t> selected,
              std::vector<int64_t> tensor_ids, std::vector<int64_t> basis_ids, std::vector<Tensor> bases,
              std::vector<int64_t> high_dims, Tensor std, std::optional<Tensor> floor_std,
              std::optional<Tensor> grad_scale, Tensor state, double keep, int64_t rounds,
              std::optional<std::vector<int64_t>> shards) {
  const Arguments arguments = {grads,     scores,     selected, tensor_ids, basis_ids, bases, high_dims, std,
                               floor_std, grad_scale, state,    keep,       rounds,    shards};
  const Views views = check_perturb(arguments);
  const Variant& kernels = variant();
  const Plan plan(arguments, views);
  Work work = work_from(state, rounds);
  work.keep = keep;
  if (grad_scale) work.grad_scale = *reinterpret_cast<const float*>(views.grad_scale.data);
  work.runs = plan.runs().data();
  work.run_count = static_cast<int64_t>(plan.runs().size());
  Portions portions(work);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), portions.count());
  const ScratchSizes sizes = kernels.scratch_sizes(work);
  const Memory memory(threads, sizes.floats());
  work.step = take_step(views.state);  // from here on nothing can fail
  torch::stable::parallel_for(0, threads, 1, [&](int64_t thread, int64_t) {
    kernels.perturb_portions(work, portions, sizes, memory.of_thread(thread));
  });
}

void words_(Tensor out, Tensor state, int64_t tensor_id, int64_t first_position, int64_t rounds) {
  const View view = check_words(out, state, tensor_id, first_position, rounds);
  int32_t* data = reinterpret_cast<int32_t*>(view.data);
  Work work = work_from(state, rounds);
  work.step = __atomic_load_n(static_cast<const uint64_t*>(state.const_data_ptr()) + 4, __ATOMIC_RELAXED);
  const auto draw = [&](int32_t* to) {
    variant().draw_words(work, static_cast<uint32_t>(tensor_id), first_position, view.count, to);
  };
  if (view.is_contiguous()) return draw(data);
  // Not by torch's copy_, which writes to an inference tensor and raises then.
  std::vector<Dimension> dims;
  for (int64_t dim = 0; dim < view.dims; ++dim) dims.push_back({view.sizes[dim], view.strides[dim]});
  const std::vector<int64_t> offsets = offsets_of(dims);
  std::vector<int32_t> dense(offsets.size());
  draw(dense.data());
  for (size_t i = 0; i < dense.size(); ++i) data[offsets[i]] = dense[i];
}

// Whether element i of these dimensions, innermost first, lies at i * stride for one stride, which then is `stride`.
bool evenly_spaced(const std::vector<Dimension>& space, int64_t& stride) {
  stride = space.empty() ? 1 : space[0].stride;
  for (size_t dim = 1; dim < space.size(); ++dim)
    if (space[dim].stride != space[dim - 1].stride * space[dim - 1].size) return false;
  return true;
}

// What the formula gives without elements: no sample adds nothing, and the mean of no pixels is not a number.
void fill_empty(float* scores, const View& grad) {
  std::fill_n(scores, grad.sizes[1], grad.sizes[0] == 0 ? 0.0f : std::numeric_limits<float>::quiet_NaN());
}

Tensor channel_saliency(Tensor grad) {
  const View given = check_activation_grad(grad);
  ActivationGrad view = {};
  view.dtype = dtype_of(given);
  view.data = given.data;
  view.samples = given.sizes[0], view.channels = given.sizes[1];
  view.sample_stride = given.strides[0], view.channel_stride = given.strides[1];
  Tensor scores = torch::stable::new_empty(grad, {view.channels}, torch::headeronly::ScalarType::Float);
  float* out = static_cast<float*>(scores.mutable_data_ptr());
  if (given.count == 0) {
    fill_empty(out, given);
    return scores;
  }
  std::vector<Dimension> space = space_of(given);
  view.space = 1;
  for (const Dimension& dim : space) view.space *= dim.size;
  std::vector<int64_t> offsets;
  if (!evenly_spaced(space, view.space_stride)) {
    std::reverse(space.begin(), space.end());
    offsets = offsets_of(space);
    view.space_offsets = offsets.data();
  }
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
