// Scratch memory of all threads of a call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "op/refuse.h"

namespace tip {

// Each thread's part lies at addresses that no other thread's cache lines reach.
class ThreadMemory {
 public:
  ThreadMemory(int64_t threads, int64_t floats) : stride_((floats + kAlign - 1) / kAlign * kAlign) {
    const size_t bytes = static_cast<size_t>(threads * stride_) * sizeof(float);
    if (bytes == 0) return;
    memory_.reset(static_cast<float*>(std::aligned_alloc(kAlign * sizeof(float), bytes)));
    if (!memory_) refuse("expected ", bytes, " bytes of memory for ", threads, " threads, got none");
  }
  float* of_thread(int64_t thread) const { return memory_.get() + thread * stride_; }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  static constexpr int64_t kAlign = 32;  // floats: two cache lines, since processors fetch them in pairs
  int64_t stride_;
  std::unique_ptr<float, Free> memory_;
};

}  // namespace tip
