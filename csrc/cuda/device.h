// The device of a call, without CUDA headers.
#pragma once

#include <cstdint>
#include <string>

namespace tip {

// Makes a device the current one for CUDA calls of this thread.
void set_device(int device);

// Shared memory that a block of the current device can have if it asks for it.
int64_t most_shared_bytes();

// Why this library's kernels cannot run on a device; empty if they can.
std::string problem_of_device(int device);

}  // namespace tip
