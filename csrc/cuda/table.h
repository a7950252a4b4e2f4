// What a launch is told of its tensors: plain data, passed as a kernel argument, so that nothing has to be allocated
// or copied and a captured graph keeps its own.
//
// A *unit* is a kernel or, in a tensor without a high band, one element; a *row* is a channel or, again, whatever lies
// evenly in memory. Units have indices in the whole tensor, from which their random words follow (docs/design.md,
// section 3). A *run* is a row, or several of them if they follow one another. A *lane* is the least number of whole
// units in whole groups of 16 words (core/address.h). A *tile* is what a block works on: some lanes of one run.
#pragma once

#include "core/address.h"
#include "core/axes.h"
#include "core/dtype.h"

TIP_BEGIN_NAMESPACE

constexpr int kThreads = 128;
constexpr int kRowsPerTile = 32;    // at most, where channels are ranked
constexpr int64_t kFusedTaps = 49;  // larger bases stay in device memory

enum class Path : uint8_t {
  any,       // every dtype, stride, kernel size and option
  dense3x3,  // noise on 3x3 kernels whose high band is all but DC: kernels lie one after the other
  pairs3x3,  // the same, and each two kernels lie interleaved, their taps evenly spaced (channels_last)
  elements,  // no high band, elements lie one after the other
};

// A tensor, as the kernels see it.
struct Entry {
  char* data;
  const float* scores;     // [channels], null if all or none are selected, or if
  const uint32_t* chosen;  // tells which, a bit for each channel; else null
  int64_t channels, selected;
  int64_t first_channel;
  const double* basis;  // [taps, taps] row-major, masked columns first; null without a high band. For a norm the form
                        // that kernels or elements count by; null if they count as they are
  const float* amplitudes;  // [2, taps], of selected channels and of others; null without
  int64_t first;            // index of the first unit in the whole tensor
  int64_t row_units, unit_stride;
  int64_t run_units;  // the whole tensor if its rows follow one another, else a row
  int64_t tiles_per_run;
  int64_t tile_end;  // tiles of this and all earlier tensors of the table
  int32_t taps, high_dim;
  int32_t id;
  int32_t tile_lanes, lane_units, lane_groups;
  int16_t first_axis;  // row axes, innermost first, then tap axes, in order
  uint8_t row_axes, tap_axes;
  DType dtype;
  Path path;
};

// What all tensors of a launch share.
struct TableHeader {
  int64_t* state;
  const float* std;
  const float* floor_std;   // null without a floor
  const float* grad_scale;  // null for 1
  double keep;
  bool takes_step;  // or an earlier launch of the call has advanced it
  bool waits;       // for the launch before, which ranks the channels
  int64_t first_tile;
};

// As many tensors as fit into kBytes.
template <int kBytes>
struct Table {
  static constexpr int kEntries = (kBytes - 128) / (sizeof(Entry) + 2 * sizeof(Axis));
  static constexpr int kAxes = 2 * kEntries;
  TableHeader header;
  int64_t tiles;
  int32_t entries, axes;
  Entry entry[kEntries];
  Axis axis[kAxes];
};

// A kernel has 4 KiB of arguments and, from CUDA 12.1 and compute capability 7.0 on, 32,764 bytes. Small tables launch
// faster.
using SmallTable = Table<4096>;
using LargeTable = Table<32760>;
static_assert(sizeof(SmallTable) <= 4096 && sizeof(LargeTable) <= 32764, "a table is a kernel's argument");

TIP_END_NAMESPACE
