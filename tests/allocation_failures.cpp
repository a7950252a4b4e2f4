// Fails one allocation of a library, for tests/test_allocations.py: preloaded, it stands before the C library's malloc
// and the C++ library's operator new and counts what code at given addresses asks for.
#include <dlfcn.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

std::atomic<uintptr_t> low{0}, high{0};  // addresses of the library's code; equal while nothing is counted
std::atomic<long> left{-1};              // allocations until the one that fails

// Whether this allocation fails, by the address that asks for it.
bool fails(const void* caller) {
  const auto address = reinterpret_cast<uintptr_t>(caller);
  return address >= low && address < high && left.fetch_sub(1) == 0;
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

// Lets the allocation number `number`, from 0, of the code in [begin, end) fail.
void arm(uintptr_t begin, uintptr_t end, long number) {
  left = number;
  low = begin;
  high = end;
}

// Ends that; returns whether an allocation has failed.
int disarm() {
  low = high = 0;
  return left < 0;
}

void* aligned_alloc(size_t alignment, size_t size) {
  static auto* real = next<void*(size_t, size_t)>("aligned_alloc");
  return fails(__builtin_return_address(0)) ? nullptr : real(alignment, size);
}

void* malloc(size_t size) {
  static void* (*real)(size_t) = nullptr;
  if (!real) real = next<void*(size_t)>("malloc");
  return fails(__builtin_return_address(0)) ? nullptr : real(size);
}
}

void* operator new(size_t size) {
  if (fails(__builtin_return_address(0))) throw std::bad_alloc();
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
