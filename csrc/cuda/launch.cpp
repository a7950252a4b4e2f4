#include "cuda/launch.h"

#include "core/generate.h"
#include "cuda/launch_tables.h"
#include "cuda/per_generator.h"

namespace tip {

void launch_perturb(const Inputs& inputs, std::vector<PlannedTensor> tensors, uint32_t* ranking, void* stream) {
  TableHeader header = header_of(inputs);
  header.waits = ranking != nullptr;
  if (ranking) rank_before(tensors, ranking, [=](const RankTable& table) { launch_ranking(table, stream); });
  with_generator(inputs.generator,
                 [&](auto known) { PerGenerator<decltype(known)::value>::perturb(header, tensors, stream); });
}

void launch_words(int generator, const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out,
                  void* stream) {
  with_generator(generator,
                 [&](auto known) { PerGenerator<decltype(known)::value>::words(state, tensor, first, out, stream); });
}

}  // namespace tip
