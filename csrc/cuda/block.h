// A thread block as its kernels see it, on the device and, one thread after the other, on the host.
//
// Kernels are written in phases: `block.each(f)` calls f(thread) for every thread, and what a later phase reads of
// other threads has a `sync` before it. On the device a phase is the code between two barriers; on the host it is a
// loop, which lets tests compare a kernel with the reference where there is no GPU.
#pragma once

#include "cuda/table.h"

TIP_BEGIN_NAMESPACE

#if defined(__CUDACC__)

struct DeviceBlock {
  // What a thread keeps from one phase to the next.
  template <class T>
  struct Local {
    T value;
    __device__ T& operator[](int) { return value; }
  };

  template <class F>
  __device__ __forceinline__ void each(F f) const {
    f(static_cast<int>(threadIdx.x));
  }
  // Whether f(thread) is true for some thread; everything before is visible to all then.
  template <class F>
  __device__ __forceinline__ bool any(F f) const {
    return __syncthreads_or(f(static_cast<int>(threadIdx.x)));
  }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ void sync_warp() const { __syncwarp(); }
};

#endif

struct HostBlock {
  template <class T>
  struct Local {
    T value[kThreads];
    T& operator[](int thread) { return value[thread]; }
  };

  template <class F>
  void each(F f) const {
    for (int thread = 0; thread < kThreads; ++thread) f(thread);
  }
  template <class F>
  bool any(F f) const {
    bool found = false;
    for (int thread = 0; thread < kThreads; ++thread) found |= f(thread);
    return found;
  }
  void sync() const {}
  void sync_warp() const {}
};

// Adds every thread's value to a shared sum. All threads of a warp take part.
TIP_HD void add_to_shared(int* sum, int value) {
#if defined(__CUDA_ARCH__)
  value = __reduce_add_sync(0xFFFFFFFFu, value);
  if ((threadIdx.x & 31) == 0) atomicAdd(sum, value);
#else
  *sum += value;
#endif
}

// Orders what this thread has learned of other blocks before what it does next.
TIP_HD void fence() {
#if defined(__CUDA_ARCH__)
  __threadfence();
#endif
}

// The value of a counter of all blocks, which goes from 0 to count - 1 and around. What the block has done before its
// last barrier comes before what any block does behind a fence that has seen the counter later. No full fence for every
// block: it would wait for the block's own writes and empty its cache.
TIP_HD unsigned int count_around(unsigned int* counter, unsigned int count) {
#if defined(__CUDA_ARCH__)
  unsigned int value;
  asm volatile("atom.release.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(value)
               : "l"(__cvta_generic_to_global(counter)), "r"(count - 1)
               : "memory");
  return value;
#else
  const unsigned int value = *counter;
  *counter = value + 1 < count ? value + 1 : 0;
  return value;
#endif
}

// Lets the next launch of the stream start its blocks, and has such a launch wait until this one is complete. Only from
// compute capability 9.0 on; before, launches follow one another anyway.
TIP_HD void start_next_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
TIP_HD void wait_for_last_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A pointer to device memory that came out of shared memory, where the compiler loses sight of what it points to.
template <class T>
TIP_HD T* global_pointer(T* pointer) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

// 16 aligned bytes from device to shared memory, there after wait_for_copies in the same thread.
TIP_HD void start_copy(void* shared, const void* global) {
#if defined(__CUDA_ARCH__)
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
  memcpy(shared, global, 16);
#endif
}

TIP_HD void copy16(void* to, const void* from) {
#if defined(__CUDA_ARCH__)
  *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
#else
  memcpy(to, from, 16);
#endif
}

TIP_HD void wait_for_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

TIP_END_NAMESPACE
