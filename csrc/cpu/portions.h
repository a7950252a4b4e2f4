// What is left of a call's groups. Threads take portions until there are none, because cores differ in speed.
#pragma once

#include "cpu/run.h"

namespace tip {

class Portions {
 public:
  static constexpr int64_t kGroups = 2048;  // of a portion: some 50 microseconds, many for a model

  explicit Portions(const RunTable& table) : groups_(table.groups()) {}

  int64_t count() const { return (groups_ + kGroups - 1) / kGroups; }

  // Takes the groups [begin, end); false when none is left.
  TIP_HD bool take(int64_t& begin, int64_t& end) {
    begin = __atomic_fetch_add(&next_, kGroups, __ATOMIC_RELAXED);
    end = begin + kGroups < groups_ ? begin + kGroups : groups_;
    return begin < groups_;
  }

 private:
  int64_t groups_;
  int64_t next_ = 0;
};

}  // namespace tip
