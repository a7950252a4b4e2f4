// The CUDA kernels' own code compiled for the host (csrc/cuda/block.h), for tests/test_cuda_on_host.py: plans a call,
// fills the tables and runs every block, one after the other.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/generate.h"
#include "cuda/launch_tables.h"
#include "cuda/perturb_tile.h"
#include "cuda/plan.h"
#include "cuda/ranking.h"

using namespace tip;

extern "C" {

struct HostTensor {
  char* data;
  const float* scores;
  const double* basis;
  const int64_t *sizes, *strides;
  int64_t dims, dtype, channels, selected, id, high_dim;
  int64_t first_channel, first_kernel, kernels;
  const float* amplitudes;
};

struct HostCall {
  int64_t* state;
  const float *std, *floor_std, *grad_scale;
  double keep;
  int32_t generator;
  int32_t passes;        // of a thread; 0 for the plan's choice
  int64_t most_blocks;   // of a launch
  int64_t ranks_before;  // whether channels are ranked by a launch before
};

// What became of a call.
struct HostReport {
  int64_t launches, blocks, advances, launches_before_advance;
  int64_t paths[4];  // tensors on each
};
}

namespace {

// Two entries, so that few tensors take several launches.
using TinyTable = Table<128 + 2 * (sizeof(Entry) + 2 * sizeof(Axis))>;

Inputs inputs_of(const HostTensor* tensors, int64_t count, const HostCall& call) {
  Inputs inputs = {{}, {}, call.state, call.std, call.floor_std, call.grad_scale, call.keep, call.generator};
  for (const HostTensor* t = tensors; t < tensors + count; ++t) {
    const Shape shape = {t->dims, t->sizes, t->strides};
    const int64_t basis = t->basis ? static_cast<int64_t>(inputs.bases.size()) : -1;
    if (t->basis) inputs.bases.push_back({t->basis, shape.taps(), t->high_dim});
    inputs.tensors.push_back({t->data,
                              static_cast<DType>(t->dtype),
                              shape,
                              t->id,
                              basis,
                              t->scores,
                              t->channels,
                              t->selected,
                              {t->first_channel, t->first_kernel, t->kernels},
                              t->amplitudes});
  }
  return inputs;
}

template <int kGenerator>
class HostLauncher {
 public:
  HostLauncher(int64_t most_blocks, HostReport& report) : most_blocks_(most_blocks), report_(report) {}

  int64_t most_blocks() const { return most_blocks_; }

  template <class T>
  void operator()(const T& table, int64_t blocks, int64_t shared_bytes) {
    const int64_t step = table.header.state[4];
    // Unwritten shared memory is not zero: NaN shows where it is used.
    std::vector<uint32_t> memory(shared_bytes / 4 + 4);
    for (int64_t block = 0; block < blocks; ++block) {
      std::fill(memory.begin(), memory.end(), 0x7FC00000u);
      Shared shared;
      std::memset(&shared, 0xAB, sizeof shared);
      perturb_tile<kGenerator>(
          HostBlock(), table, table.header.first_tile + block, shared, reinterpret_cast<char*>(memory.data()),
          [&](uint64_t own) { take_ticket(table.header, static_cast<unsigned int>(blocks), own); });
    }
    if (table.header.state[4] != step) {
      ++report_.advances;
      report_.launches_before_advance = report_.launches;
    }
    report_.blocks += blocks;
    ++report_.launches;
  }

 private:
  const int64_t most_blocks_;
  HostReport& report_;
};

// What the launch does that ranks channels before.
void rank_on_host(std::vector<PlannedTensor>& planned, std::vector<uint32_t>& memory) {
  int64_t words = 0;
  for (const PlannedTensor& tensor : planned) words += tensor.entry.scores ? words_for(tensor.entry) : 0;
  memory.assign(words, 0xABABABABu);
  rank_before(planned, memory.data(), [](const RankTable& table) {
    for (int i = 0; i < table.entries; ++i) {
      RankShared shared;
      std::memset(&shared, 0xAB, sizeof shared);
      const HostBlock block;
      Ranking<HostBlock>(block, table.entry[i], shared).run();
    }
  });
}

// Counts what tiles cover, and touches no memory.
class CoverLauncher {
 public:
  CoverLauncher(int64_t* covered, int64_t* reach) : covered_(covered), reach_(reach) {}

  int64_t launches() const { return launches_; }
  int64_t most_blocks() const { return INT32_MAX; }

  template <class T>
  void operator()(const T& table, int64_t blocks, int64_t) {
    ++launches_;
    for (int64_t block = 0; block < blocks; ++block) {
      const Tile tile = locate(table, table.header.first_tile + block);
      if (tile.rows == 0) continue;
      const Entry& entry = table.entry[tile.entry];
      const Axis* axes = table.axis + entry.first_axis;
      covered_[entry.id] += static_cast<int64_t>(tile.end - tile.begin) * entry.taps;
      const int64_t last = unit_offset(entry, axes, tile, tile.end - 1) + tap_offset(entry, axes, entry.taps - 1);
      reach_[entry.id] = std::max(reach_[entry.id], last);
    }
  }

 private:
  int64_t *covered_, *reach_;
  int64_t launches_ = 0;
};

}  // namespace

extern "C" {

// Runs a call on the host, with TinyTable or tables of the usual sizes.
void perturb_on_host(const HostTensor* tensors, int64_t count, const HostCall* call, int64_t tiny_tables,
                     HostReport* report) {
  *report = {};
  const Inputs inputs = inputs_of(tensors, count, *call);
  std::vector<PlannedTensor> planned = plan_tensors(inputs, call->passes);
  std::vector<uint32_t> ranking;
  if (call->ranks_before) rank_on_host(planned, ranking);
  for (const PlannedTensor& tensor : planned) ++report->paths[static_cast<int>(tensor.entry.path)];
  const TableHeader header = header_of(inputs);
  with_generator(call->generator, [&](auto known) {
    HostLauncher<decltype(known)::value> launcher(call->most_blocks, *report);
    tiny_tables ? launch_tables<TinyTable, TinyTable>(header, planned, launcher)
                : launch_tables<SmallTable, LargeTable>(header, planned, launcher);
  });
}

// Only plans: how many elements each tensor's tiles cover (exactly once if all is well), in `covered`, with the
// largest offset of an element in `reach`; `tables` is the number of launches with tables of SmallTable's size, or
// LargeTable's.
void cover_on_host(const HostTensor* tensors, int64_t count, const HostCall* call, int64_t large, int64_t* covered,
                   int64_t* reach, int64_t* tables) {
  const Inputs inputs = inputs_of(tensors, count, *call);
  const std::vector<PlannedTensor> planned = plan_tensors(inputs, call->passes);
  const TableHeader header = header_of(inputs);
  CoverLauncher launcher(covered, reach);
  large ? launch_tables<LargeTable, LargeTable>(header, planned, launcher)
        : launch_tables<SmallTable, SmallTable>(header, planned, launcher);
  *tables = launcher.launches();
}

// Index arithmetic by itself, for tests/test_index_arithmetic.py.

int64_t divide_on_host(int64_t a, int64_t b) { return divide(a, b); }

// Row and unit of a slot behind the second row's first slot, 0.
void row_unit_on_host(int64_t row_units, int64_t slot, int64_t* row, int64_t* unit) {
  Entry entry = {};
  Tile tile = {};
  entry.row_units = row_units;
  tile.inverse = inverse_of(row_units);
  const RowUnit found = row_unit_of(entry, tile, static_cast<int>(slot));
  *row = found.row - 1, *unit = found.unit;
}

uint64_t counter_on_host(uint32_t tensor, uint64_t block) {
  const Counter<uint32_t> found = counter(tensor, block);
  return static_cast<uint64_t>(found.high) << 32 | found.low;
}

// The counter of Philox's block i of four in a group.
uint64_t philox_counter_on_host(uint32_t tensor, uint64_t group, uint32_t i) {
  const Counter<uint32_t> found = philox_counter(counter(tensor, group), i);
  return static_cast<uint64_t>(found.high) << 32 | found.low;
}

// First lane, and slots [begin, end), of a tile of a tensor in one run.
void tile_on_host(int64_t first, int64_t units, int64_t lane_units, int64_t tile_lanes, int64_t tiles, int64_t index,
                  int64_t* found) {
  TinyTable table = {};
  Entry& entry = table.entry[0];
  entry.first = first, entry.row_units = entry.run_units = units, entry.unit_stride = 1, entry.taps = 1;
  entry.lane_units = static_cast<int32_t>(lane_units), entry.tile_lanes = static_cast<int32_t>(tile_lanes);
  entry.tiles_per_run = entry.tile_end = tiles;
  table.entries = 1;
  const Tile tile = locate(table, index);
  found[0] = tile.lane, found[1] = tile.begin, found[2] = tile.end, found[3] = tile.rows;
}
}
