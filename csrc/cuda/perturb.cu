// The kernels of one generator, TIP_ROUNDS. csrc/cuda/launch.cpp chooses among them.
#include <algorithm>
#include <mutex>

#include "cuda/check.h"
#include "cuda/generator.h"
#include "cuda/perturb.h"

namespace tip {

namespace {

// Blocks that have read the state, for each state in use. Zero between launches, since the last block resets it.
__device__ unsigned int tickets[kTickets];

// The last block to have read the state advances it: no block can see the next step.
__device__ void take_ticket(const Call& call, uint64_t step) {
  if (call.ticket < 0) return;
  __threadfence();
  if (atomicInc(&tickets[call.ticket], gridDim.x - 1) == gridDim.x - 1)
    call.state[4] = static_cast<int64_t>(step + 1);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 6) perturb_tiles(const __grid_constant__ T table) {
  __shared__ Shared shared;
  extern __shared__ __align__(16) char memory[];
  perturb_tile<TIP_ROUNDS>(DeviceBlock(), table, table.call.first_tile + blockIdx.x, shared, memory,
                           [&](uint64_t step) { take_ticket(table.call, step); });
}

// A thread for each group of words.
__global__ void __launch_bounds__(kThreads) write_words(const int64_t* state, uint32_t tensor, int64_t first,
                                                        const __grid_constant__ WordsOut out) {
  const int64_t group = first / kGroup + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t place = group * kGroup - first;
  if (place >= out.count) return;
  uint32_t block[kGroup];
  generate<TIP_ROUNDS>(read_stream(state), counter(tensor, group), block);
  TIP_UNROLL
  for (int i = 0; i < kGroup; ++i)
    if (place + i >= 0 && place + i < out.count)
      out.data[stride_offset(out.axis, out.axes, place + i)] = static_cast<int32_t>(block[i]);
}

template <class T>
void launch(T& table, bool is_first, int64_t shared_bytes, cudaStream_t stream) {
  constexpr int64_t kMostBlocks = INT32_MAX, kPlentyShared = 48 * 1024;
  if (shared_bytes > kPlentyShared)
    check(cudaFuncSetAttribute(perturb_tiles<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)));
  const int32_t ticket = table.call.ticket;
  for (int64_t done = 0; done == 0 || done < table.tiles;) {
    const int64_t left = table.tiles - done;
    const int64_t blocks = left > kMostBlocks ? kMostBlocks : left > 0 ? left : 1;
    table.call.first_tile = done;
    table.call.ticket = is_first && done == 0 ? ticket : -1;
    done += blocks;
    perturb_tiles<T><<<static_cast<unsigned int>(blocks), kThreads, shared_bytes, stream>>>(table);
    check(cudaGetLastError());
  }
}

// Launches the tensors from `begin` on that fit into a table, or none if that leaves some and `all` is asked for.
template <class T>
size_t launch_table(const Call& call, const std::vector<PlannedTensor>& tensors, size_t begin, bool all,
                    cudaStream_t stream) {
  T table;
  table.call = call;
  const size_t end = fill_table(tensors, begin, table);
  if (all && end < tensors.size()) return begin;
  int64_t shared_bytes = 0;
  for (size_t i = begin; i < end; ++i) shared_bytes = std::max(shared_bytes, tensors[i].shared_bytes);
  launch(table, begin == 0, shared_bytes, stream);
  return end;
}

}  // namespace

template <>
void Generator<TIP_ROUNDS>::perturb(const Call& call, const std::vector<PlannedTensor>& tensors, void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  // The launches of a call follow one another: the later ones count on the step that the first one took.
  static std::mutex launches;
  const std::lock_guard<std::mutex> lock(launches);
  if (launch_table<SmallTable>(call, tensors, 0, true, on) == tensors.size()) return;
  for (size_t begin = 0; begin < tensors.size();) begin = launch_table<LargeTable>(call, tensors, begin, false, on);
}

template <>
void Generator<TIP_ROUNDS>::words(const int64_t* state, uint32_t tensor, int64_t first, const WordsOut& out,
                                  void* stream) {
  if (out.count == 0) return;
  const int64_t groups = (first + out.count - 1) / kGroup - first / kGroup + 1;
  const unsigned int blocks = static_cast<unsigned int>((groups + kThreads - 1) / kThreads);
  write_words<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(state, tensor, first, out);
  check(cudaGetLastError());
}

}  // namespace tip
