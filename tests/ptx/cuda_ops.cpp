// csrc/cuda/register.cpp as it is, but for CPU tensors: its ops are torch.ops.tip_ptx.*, which tests/ptx/cuda.py
// declares, and what it asks a CUDA torch for is here.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cuda/launch.h"
#include "op/inputs.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

using NoteMemory = void (*)(void*, int64_t);

namespace {
NoteMemory note_memory = nullptr;
void* current_stream = nullptr;
}  // namespace

EXPORTED void set_note_memory(NoteMemory note) { note_memory = note; }
EXPORTED void set_current_stream(void* stream) { current_stream = stream; }

EXPORTED AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}
EXPORTED AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return AOTI_TORCH_SUCCESS; }

namespace {
AOTITorchError get_current_stream(int32_t, void** stream) {
  *stream = current_stream;
  return AOTI_TORCH_SUCCESS;
}
}  // namespace

namespace torch::stable {

// Memory that an op takes for itself.
inline Tensor noted_new_empty(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef size,
                              std::optional<torch::headeronly::ScalarType> dtype) {
  Tensor made = new_empty(like, size, dtype);
  if (note_memory && made.numel() > 0)
    note_memory(made.mutable_data_ptr(), made.numel() * static_cast<int64_t>(made.element_size()));
  return made;
}

}  // namespace torch::stable

// Lanes of a thread, where a test wants another number than pays; 0 for what pays.
namespace {
int passes = 0;
}
EXPORTED void set_passes(int count) { passes = count; }

#define plan_tensors(inputs) plan_tensors(inputs, passes)
#define new_empty noted_new_empty
#define dlopen(name, flags) (&current_stream)
#define dlsym(library, name) reinterpret_cast<void*>(&get_current_stream)
#define CUDA CPU
#define tip_kernels tip_ptx
#include "cuda/register.cpp"
