#include "cuda/launch.h"

#include <mutex>
#include <unordered_map>

#include "core/generate.h"
#include "cuda/launch_tables.h"
#include "cuda/per_generator.h"

namespace tip {

namespace {

// A state's counter of blocks. Two launches that may overlap have two states, hence two tickets, until kTickets
// states have been used; memory that is used again has its ticket back at zero.
int32_t ticket_of(const int64_t* state) {
  static std::mutex mutex;
  static std::unordered_map<const int64_t*, int32_t> tickets;
  const std::lock_guard<std::mutex> lock(mutex);
  const int32_t next = static_cast<int32_t>(tickets.size() % kTickets);
  return tickets.emplace(state, next).first->second;
}

}  // namespace

void launch_perturb(const Inputs& inputs, const std::vector<PlannedTensor>& tensors, void* stream) {
  const TableHeader header = header_of(inputs, ticket_of(inputs.state));
  with_generator(inputs.generator,
                 [&](auto known) { PerGenerator<decltype(known)::value>::perturb(header, tensors, stream); });
}

void launch_words(int generator, const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out,
                  void* stream) {
  with_generator(generator,
                 [&](auto known) { PerGenerator<decltype(known)::value>::words(state, tensor, first, out, stream); });
}

}  // namespace tip
