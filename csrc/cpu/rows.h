// Columns, of which each holds a value of every lane, to rows of a lane's values, and back, by transposition.
#pragma once

#include "cpu/shuffle.h"

#include "core/basis3x3.h"

TIP_BEGIN_NAMESPACE

// Writes `count` columns as rows, lane by lane, and after them less than a vector. Destroys columns, of which there is
// memory for a multiple of the lanes.
template <int kCount, class V>
TIP_HD void to_rows(V* columns, int64_t runtime_count, NumberOf<V>* rows) {
  constexpr int kWidth = kLanesOf<V>;
  constexpr int64_t kWorthTransposing = kWidth / 4;
  const int64_t count = kCount ? kCount : runtime_count;
  int64_t c = 0;
  for (; c + kWorthTransposing < count; c += kWidth) transpose(columns + c);
  // In row order, since the last vector of a row may run over into the next one.
  const NumberOf<V>* rest = reinterpret_cast<const NumberOf<V>*>(columns + c);
#pragma GCC unroll 16
  for (int lane = 0; lane < kWidth; ++lane) {
    NumberOf<V>* row = rows + lane * count;
    for (int64_t i = 0; i < c; i += kWidth) store(row + i, columns[i + lane]);
    for (int64_t i = c; i < count; ++i) row[i] = rest[(i - c) * kWidth + lane];
  }
}

template <class V>
void to_rows(V* columns, int64_t count, NumberOf<V>* rows) {
  NumberOf<V>* behind = rows + kLanesOf<V> * count;
  const V kept = load(behind);  // the last row runs over into what may be gradients that are still to be read
  count == kPair3x3 ? to_rows<kPair3x3>(columns, count, rows) : to_rows<0>(columns, count, rows);
  store(behind, kept);
}

// What to_rows does, undone. Reads past the last row by less than a vector.
template <class V>
void to_columns(const NumberOf<V>* rows, int64_t count, V* columns) {
  for (int64_t c = 0; c < count; c += kLanesOf<V>) {
    for (int lane = 0; lane < kLanesOf<V>; ++lane) columns[c + lane] = load(rows + lane * count + c);
    transpose(columns + c);
  }
}

TIP_END_NAMESPACE
