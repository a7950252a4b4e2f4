// torch's parallel_for on plain threads, for ThreadSanitizer: it does not see how OpenMP's threads wait for each other,
// and would call every use of shared memory a race. Preloaded, it comes before libtorch's: see tests/instrument.py.
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace {
constexpr uint32_t kThreads = 4;
thread_local uint32_t thread_index = 0;
}  // namespace

extern "C" {

int32_t torch_get_num_threads(uint32_t* count) {
  *count = kThreads;
  return 0;
}

int32_t torch_get_thread_idx(uint32_t* index) {
  *index = thread_index;
  return 0;
}

int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain, void (*work)(int64_t, int64_t, void*),
                           void* with) {
  const int64_t count = end - begin, step = std::max<int64_t>({grain, (count + kThreads - 1) / kThreads, 1});
  std::vector<std::thread> threads;
  for (int64_t from = begin; from < end; from += step) {
    const uint32_t index = static_cast<uint32_t>(threads.size());
    threads.emplace_back([=] {
      thread_index = index;
      work(from, std::min(from + step, end), with);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}
}
