// The kernel, compiled once per instruction set (see setup.py): draws noise for units and applies it.
//
// A lane of a vector draws whole groups of 16 words, for whole units. Of runs that lie well, whole vectors of lanes go
// from registers to gradients (cpu/vectors.h); what is left of them, and all other runs, go through tiles
// (cpu/tile.h).
#include "cpu/perturb.h"

#include "cpu/simd.h"  // before core/, which uses its overloads

#include "cpu/draw.h"
#include "cpu/tile.h"
#include "cpu/vectors.h"

TIP_BEGIN_NAMESPACE

namespace {

// Adds noise to lanes [begin, end) of a run, counted from its first lane.
void perturb_lanes(const Run& run, int64_t begin, int64_t end, const Vectors& vectors, Tile& tile) {
  const VectorLanes lanes(run, begin, end);
  tile.add(run, begin, lanes.begin);
  vectors.perturb(run, lanes);
  tile.add(run, lanes.end, end);
}

}  // namespace

ScratchSizes scratch_sizes(const RunTable& table) { return sizes_of_scratch(table); }

void perturb_portions(const RunTable& table, Portions& portions, const ScratchSizes& sizes, float* memory) {
  const Draw draw(table.generator);
  const Scratch scratch(sizes, memory);
  const Vectors vectors(table, draw);
  Tile tile(table, draw, scratch);
  const Run* run = table.runs;  // of those that end after what this thread has done
  int64_t run_begin = 0;
  for (int64_t begin, end; portions.take(begin, end);) {
    for (; run_begin < end; run_begin = run->end, ++run) {
      if (run->end > begin) {
        // A lane belongs to the portion in which its first group lies.
        const int64_t groups = run->packing.groups;
        const int64_t from = begin > run_begin ? begin - run_begin : 0;
        const int64_t to = smaller(end, run->end) - run_begin;
        perturb_lanes(*run, (from + groups - 1) / groups, (to + groups - 1) / groups, vectors, tile);
      }
      if (run->end > end) break;  // the rest of the run is another portion
    }
  }
  tile.flush();
}

TIP_END_NAMESPACE
