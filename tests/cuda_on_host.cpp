// The CUDA kernels' own code compiled for the host (csrc/cuda/block.h), for tests/test_cuda_on_host.py: plans a call,
// fills the tables and runs every block, one after the other.
#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/generate.h"
#include "cuda/perturb.h"
#include "cuda/plan.h"

using namespace tip;

extern "C" {

struct HostTensor {
  char* data;
  const float* scores;
  const double* basis;
  const int64_t *sizes, *strides;
  int64_t dims, dtype, score_count, score_stride, selected, id, high_dim;
  int64_t first_channel, first_kernel, kernels_per_channel;
};

struct HostCall {
  int64_t* state;
  const float *std, *floor_std, *grad_scale;
  double keep;
  int32_t rounds;
  int32_t lanes;  // of a thread; 0 for the plan's choice
};

// What became of a call.
struct HostReport {
  int64_t launches, blocks, advances;
  int64_t paths[3];  // tensors on each
};
}

namespace {

std::vector<PlannedTensor> plan(const HostTensor* tensors, int64_t count, const HostCall& call) {
  std::vector<TensorView> views;
  for (const HostTensor* t = tensors; t < tensors + count; ++t) {
    views.push_back({t->data, static_cast<DType>(t->dtype), {t->sizes, t->sizes + t->dims},
                     {t->strides, t->strides + t->dims}, t->scores, t->score_count, t->score_stride, t->selected,
                     t->id, t->basis, t->high_dim, t->first_channel, t->first_kernel, t->kernels_per_channel});
  }
  return plan_tensors(views, {call.floor_std != nullptr, call.grad_scale != nullptr, call.keep != 1.0, call.lanes});
}

template <int kRounds, class T>
void run_blocks(const T& table, bool is_last, int64_t shared_bytes, HostReport& report) {
  const int64_t blocks = table.tiles > 0 ? table.tiles : 1;
  // Unwritten shared memory is not zero: NaN shows where it is used.
  std::vector<uint32_t> memory(shared_bytes / 4 + 4, 0x7FC00000u);
  int64_t have_read = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    std::fill(memory.begin(), memory.end(), 0x7FC00000u);
    Shared shared;
    std::memset(&shared, 0xAB, sizeof shared);
    perturb_tile<kRounds>(HostBlock(), table, block, shared, reinterpret_cast<char*>(memory.data()),
                          [&](uint64_t step) {
                            if (is_last && ++have_read == blocks) {
                              table.call.state[4] = static_cast<int64_t>(step + 1);
                              ++report.advances;
                            }
                          });
  }
  report.blocks += blocks;
  ++report.launches;
}

template <int kRounds, class T>
void run(const std::vector<PlannedTensor>& tensors, const HostCall& call, HostReport& report) {
  size_t begin = 0;
  do {
    T table;
    const size_t end = fill_table(tensors, begin, table);
    table.call = {call.state, call.std, call.floor_std, call.grad_scale, call.keep, 0, 0};
    int64_t shared_bytes = 0;
    for (size_t i = begin; i < end; ++i) shared_bytes = std::max(shared_bytes, tensors[i].shared_bytes);
    run_blocks<kRounds>(table, end == tensors.size(), shared_bytes, report);
    begin = end;
  } while (begin < tensors.size());
}

}  // namespace

extern "C" {

// Runs a call on the host. Two entries a table when `tiny_tables`, so that few tensors take several launches.
void perturb_on_host(const HostTensor* tensors, int64_t count, const HostCall* call, int64_t tiny_tables,
                     HostReport* report) {
  *report = {};
  const std::vector<PlannedTensor> planned = plan(tensors, count, *call);
  for (const PlannedTensor& tensor : planned) ++report->paths[static_cast<int>(tensor.entry.path)];
  using Tiny = Table<128 + 2 * (sizeof(Entry) + 2 * sizeof(Axis))>;
  const auto go = [&](auto rounds) {
    constexpr int kRounds = decltype(rounds)::value;
    tiny_tables ? run<kRounds, Tiny>(planned, *call, *report) : run<kRounds, SmallTable>(planned, *call, *report);
  };
  switch (call->rounds) {
    case 8: return go(std::integral_constant<int, 8>());
    case 12: return go(std::integral_constant<int, 12>());
    case 20: return go(std::integral_constant<int, 20>());
    default: return go(std::integral_constant<int, kPhiloxRounds>());
  }
}

// Only plans: how many elements each tensor's tiles cover (exactly once if all is well), in `covered`, with the
// largest offset of an element in `reach`; `tables` is the number of launches with tables of SmallTable's size, or
// LargeTable's.
void cover_on_host(const HostTensor* tensors, int64_t count, const HostCall* call, int64_t large, int64_t* covered,
                   int64_t* reach, int64_t* tables) {
  const std::vector<PlannedTensor> planned = plan(tensors, count, *call);
  *tables = 0;
  const auto go = [&](auto& table) {
    size_t begin = 0;
    do {
      const size_t end = fill_table(planned, begin, table);
      for (int64_t index = 0; index < table.tiles; ++index) {
        const Tile tile = locate(table, index);
        if (tile.rows == 0) continue;
        const Entry& entry = table.entry[tile.entry];
        const Axis* axes = table.axis + entry.first_axis;
        covered[entry.id] += static_cast<int64_t>(tile.end - tile.begin) * entry.taps;
        const int64_t last = unit_offset(entry, axes, tile, tile.end - 1) + tap_offset(entry, axes, entry.taps - 1);
        reach[entry.id] = std::max(reach[entry.id], last);
      }
      ++*tables;
      begin = end;
    } while (begin < planned.size());
  };
  auto small_table = std::make_unique<SmallTable>();
  auto large_table = std::make_unique<LargeTable>();
  large ? go(*large_table) : go(*small_table);
}
}
