#include "cpu/variant.h"

#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

TIP_VARIANTS(TIP_DECLARE_PERTURB)
TIP_VARIANTS(TIP_DECLARE_SALIENCY)
TIP_VARIANTS(TIP_DECLARE_NORM)

namespace tip {

namespace {

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
  {#name,                     \
   runs_here::name,           \
   name::scratch_sizes,       \
   name::perturb_portions,    \
   name::draw_words,          \
   name::channel_saliency,    \
   name::sum_of_squares},
const Variant kVariants[] = {TIP_VARIANTS(TIP_VARIANT_ROW)};  // slowest first

std::string known_variants() {
  std::string names;
  for (const Variant& variant : kVariants) names += (names.empty() ? "" : ", ") + std::string(variant.name);
  return names;
}

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

}  // namespace

const Variant& variant() {
  static const Variant& chosen = choose_variant();
  return chosen;
}

}  // namespace tip
