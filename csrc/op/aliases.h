// Whether what an op writes lies in memory of another argument.
#pragma once

#include <algorithm>
#include <vector>

#include "op/view.h"

namespace tip {

// Refuses gradients that share memory with what is read, or with one another.
class Aliases {
 public:
  explicit Aliases(size_t room) { ranges_.reserve(room); }

  void add(const View& view, bool written) {
    if (view.count > 0) ranges_.push_back({view.begin(), view.end(), written});
  }

  void check() {
    std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    uintptr_t written = 0, read = 0, last_written = 0;  // where what came so far ends, and the last gradient begins
    for (const Range& range : ranges_) {
      if (range.begin < (range.written ? read : written) || (range.written && range.begin == last_written))
        refuse("expected grads without memory of another argument, got an overlap at address ", range.begin);
      uintptr_t& end = range.written ? written : read;
      end = std::max(end, range.end);
      if (range.written) last_written = range.begin;
    }
  }

 private:
  struct Range {
    uintptr_t begin, end;
    bool written;
  };
  std::vector<Range> ranges_;
};

}  // namespace tip
