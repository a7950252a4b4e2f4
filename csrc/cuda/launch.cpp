// The generator of a call is known at run time only.
#include <stdexcept>

#include "core/generate.h"
#include "cuda/generator.h"

namespace tip {

void launch_perturb(int rounds, const Call& call, const std::vector<PlannedTensor>& tensors, void* stream) {
  switch (rounds) {
    case 8: return Generator<8>::perturb(call, tensors, stream);
    case 12: return Generator<12>::perturb(call, tensors, stream);
    case 20: return Generator<20>::perturb(call, tensors, stream);
    case kPhiloxRounds: return Generator<kPhiloxRounds>::perturb(call, tensors, stream);
  }
  throw std::logic_error("no generator has this number of rounds");  // the op has refused it
}

void launch_words(int rounds, const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out,
                  void* stream) {
  switch (rounds) {
    case 8: return Generator<8>::words(state, tensor, first, out, stream);
    case 12: return Generator<12>::words(state, tensor, first, out, stream);
    case 20: return Generator<20>::words(state, tensor, first, out, stream);
    case kPhiloxRounds: return Generator<kPhiloxRounds>::words(state, tensor, first, out, stream);
  }
  throw std::logic_error("no generator has this number of rounds");  // the op has refused it
}

}  // namespace tip
