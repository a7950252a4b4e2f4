// The words themselves, for tests and audits, compiled once per instruction set (see setup.py).
#include "cpu/perturb.h"

#include "cpu/simd.h"  // before core/, which uses its overloads

#include "core/generate.h"
#include "cpu/counters.h"

TIP_BEGIN_NAMESPACE

namespace {

template <int kGenerator>
void draw(const Stream& stream, uint32_t tensor, int64_t first, int64_t count, int32_t* out) {
  for (int64_t group = first / kGroup; group * kGroup < first + count; group += kLanes) {
    uint32_t lane_words[kGroup][kLanes];
    U words[kGroup];
    generate<kGenerator>(stream, successive_groups(tensor, static_cast<uint64_t>(group)), words);
    memcpy(lane_words, words, sizeof words);
    for (int64_t w = 0; w < kLanes * kGroup; ++w) {
      const int64_t i = group * kGroup + w - first;
      if (i >= 0 && i < count) out[i] = static_cast<int32_t>(lane_words[w % kGroup][w / kGroup]);
    }
  }
}

}  // namespace

void draw_words(const Stream& stream, int generator, uint32_t tensor, int64_t first, int64_t count, int32_t* out) {
  with_generator(generator, [&](auto known) { draw<decltype(known)::value>(stream, tensor, first, count, out); });
}

TIP_END_NAMESPACE
