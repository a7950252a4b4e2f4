// Where a tile lies: the index arithmetic of the kernels, for the host too.
#pragma once

#include "core/lanes.h"
#include "cuda/offset.h"
#include "cuda/table.h"

TIP_BEGIN_NAMESPACE

// A *slot* is the index of a unit in a tile: slot s is unit lane * lane_units + s.
struct Tile {
  int32_t entry;
  int32_t begin, end;   // the slots that are in the run
  int32_t rows;         // that have a unit in the tile, 0 for an empty tile
  int32_t second_row;   // the slot where the second row begins
  uint32_t inverse;     // of the units in a row, see row_unit_of
  int64_t lane;         // first one
  int64_t row;          // of slot `begin`
  int64_t unit_in_row;  // of slot `begin`
  int32_t slot_bytes;   // from one slot to the next, where slots lie one after the other
  char* data;           // slot 0 there, which may be before the tensor
};

// The first entry of a table that ends after a tile.
template <class T>
TIP_HD int find_entry(const T& table, int64_t tile) {
  int low = 0, high = table.entries - 1;
  TIP_ROLLED
  while (low < high) {
    const int middle = (low + high) / 2;
    if (tile < table.entry[middle].tile_end) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// What row_unit_of multiplies with in place of a division by the units of a row.
TIP_HD uint32_t inverse_of(int64_t row_units) { return (1u << 31) / static_cast<uint32_t>(row_units) + 1; }

template <class T>
TIP_HD Tile locate(const T& table, int64_t index) {
  Tile tile;
  tile.entry = find_entry(table, index);
  const Entry& entry = table.entry[tile.entry];
  const Axis* rows = table.axis + entry.first_axis;
  const int64_t own = index - (tile.entry > 0 ? table.entry[tile.entry - 1].tile_end : 0);
  const int64_t run = divide(own, entry.tiles_per_run);
  const bool by_row = entry.run_units == entry.row_units;
  const int64_t first = entry.first + (by_row ? index_steps(rows, entry.row_axes, run) : 0);
  tile.lane = divide(first, entry.lane_units) + (own - run * entry.tiles_per_run) * entry.tile_lanes;
  const int64_t slots = static_cast<int64_t>(entry.tile_lanes) * entry.lane_units;
  const int64_t origin = tile.lane * entry.lane_units - first;  // of slot 0, counted in the run
  const int64_t left = entry.run_units - origin;
  tile.begin = static_cast<int32_t>(origin < 0 ? -origin : 0);
  tile.end = static_cast<int32_t>(left < slots ? left : slots);
  if (tile.end <= tile.begin) {
    tile.rows = 0;
    return tile;
  }
  const int64_t unit = origin + tile.begin;
  tile.row = by_row ? run : divide(unit, entry.row_units);
  tile.unit_in_row = by_row ? unit : unit - tile.row * entry.row_units;
  const int64_t last = tile.unit_in_row + (tile.end - tile.begin) - 1;
  tile.rows = static_cast<int32_t>(divide(last, entry.row_units)) + 1;
  const int64_t left_in_row = entry.row_units - tile.unit_in_row;
  tile.second_row = left_in_row < slots ? tile.begin + static_cast<int32_t>(left_in_row) : INT32_MAX;
  tile.inverse = entry.row_units <= slots ? inverse_of(entry.row_units) : 0;
  const int64_t offset = stride_offset(rows, entry.row_axes, tile.row) + tile.unit_in_row * entry.unit_stride;
  tile.slot_bytes = entry.taps * static_cast<int32_t>(bytes_of(entry.dtype));
  tile.data = entry.data + offset * bytes_of(entry.dtype) - tile.begin * tile.slot_bytes;
  return tile;
}

// Row and unit of a slot, the row counted from the tile's first.
struct RowUnit {
  int32_t row;
  int64_t unit;
};

TIP_HD RowUnit row_unit_of(const Entry& entry, const Tile& tile, int slot) {
  if (slot < tile.second_row) return {0, tile.unit_in_row + (slot - tile.begin)};
  // Division by multiplication: exact, since neither slots nor the units of such a row reach 2^15.
  const uint32_t unit = static_cast<uint32_t>(slot - tile.second_row);
  uint32_t row, low;
  multiply_wide(2 * unit, tile.inverse, row, low);
  return {static_cast<int32_t>(row + 1), unit - row * entry.row_units};
}

// Elements from the tensor's first to the first tap of a slot.
TIP_HD int64_t unit_offset(const Entry& entry, const Axis* axes, const Tile& tile, int slot) {
  const RowUnit at = row_unit_of(entry, tile, slot);
  return stride_offset(axes, entry.row_axes, tile.row + at.row) + at.unit * entry.unit_stride;
}

TIP_HD int64_t tap_offset(const Entry& entry, const Axis* axes, int tap) {
  return stride_offset(axes + entry.row_axes, entry.tap_axes, tap);
}

TIP_END_NAMESPACE
