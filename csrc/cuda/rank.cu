// The launch that ranks the channels of a call before it perturbs.
#include "cuda/check.h"
#include "cuda/launch.h"
#include "cuda/rank_block.h"

namespace tip {

namespace {

__global__ void __launch_bounds__(kThreads) rank_channels(const __grid_constant__ RankTable table) {
  __shared__ RankShared shared;
  start_next_launch();
  const DeviceBlock block;
  Ranking<DeviceBlock>(block, table.entry[blockIdx.x], shared).run();
}

}  // namespace

void launch_ranking(const RankTable& table, void* stream) {
  rank_channels<<<table.entries, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(table);
  check(cudaGetLastError());
}

}  // namespace tip
