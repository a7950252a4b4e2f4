// A torch tensor's metadata, read once: each question that goes through torch's stable ABI takes nanoseconds, and a
// model has hundreds of tensors.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "core/axes.h"
#include "core/dtype.h"
#include "op/refuse.h"

namespace tip {

using torch::stable::Tensor;

// What a function of torch's stable ABI returned; the macro that torch has for this has another name in each version.
inline void check_torch(AOTITorchError error) {
  if (error != AOTI_TORCH_SUCCESS) throw std::runtime_error("torch could not answer a question about a tensor");
}

constexpr int64_t kMostDims = 64;

struct View : Shape {
  int64_t count;  // of elements
  int32_t dtype, device_type, device_index;
  int64_t element_bytes;
  int64_t span;  // elements of memory from the first to behind the last
  char* data;

  uintptr_t begin() const { return reinterpret_cast<uintptr_t>(data); }
  uintptr_t end() const { return begin() + static_cast<uintptr_t>(span * element_bytes); }
  bool is_contiguous() const {
    int64_t expected = 1;
    for (int64_t dim = dims; dim-- > 0; expected *= sizes[dim])
      if (sizes[dim] != 1 && strides[dim] != expected) return false;
    return true;
  }
};

// torch's numbers of the dtypes that the ops take, asked for once.
struct DTypeNumbers {
  int32_t f32 = aoti_torch_dtype_float32(), f64 = aoti_torch_dtype_float64();
  int32_t bf16 = aoti_torch_dtype_bfloat16(), f16 = aoti_torch_dtype_float16();
  int32_t i32 = aoti_torch_dtype_int32(), i64 = aoti_torch_dtype_int64();
};

inline const DTypeNumbers& dtype_numbers() {
  static const DTypeNumbers numbers;
  return numbers;
}

inline bool is_floating(const View& view) {
  const DTypeNumbers& is = dtype_numbers();
  return view.dtype == is.f32 || view.dtype == is.bf16 || view.dtype == is.f16 || view.dtype == is.f64;
}

// Of a tensor that is_floating.
inline DType dtype_of(const View& view) {
  const DTypeNumbers& is = dtype_numbers();
  return view.dtype == is.f32    ? DType::f32
         : view.dtype == is.f64  ? DType::f64
         : view.dtype == is.bf16 ? DType::bf16
                                 : DType::f16;
}

// Elements from the first to behind the last of a tensor that has some; refuses what int64 cannot count.
inline int64_t span_of(const View& view, Name name) {
  int64_t last = 0;
  for (int64_t dim = 0; dim < view.dims; ++dim) {
    int64_t reach;
    if (view.strides[dim] < 0 || __builtin_mul_overflow(view.sizes[dim] - 1, view.strides[dim], &reach) ||
        __builtin_add_overflow(last, reach, &last))
      refuse("expected ", name, " within 2**63 elements of memory, got stride ", view.strides[dim], " of dimension ",
             dim);
  }
  return last + 1;
}

// Refuses a view that reaches out of its storage, as after a resize of the storage alone, or lies between the addresses
// that its dtype can have, as on a buffer of bytes.
inline void check_storage(const Tensor& tensor, const View& view, Name name) {
  int64_t offset, bytes, end;
  check_torch(aoti_torch_get_storage_offset(tensor.get(), &offset));
  check_torch(aoti_torch_get_storage_size(tensor.get(), &bytes));
  if (offset < 0 || __builtin_add_overflow(offset, view.span, &end) ||
      __builtin_mul_overflow(end, view.element_bytes, &end) || end > bytes || view.data == nullptr)
    refuse("expected ", name, " with storage for all of its elements, got ", bytes, " bytes");
  if (reinterpret_cast<uintptr_t>(view.data) % view.element_bytes != 0)
    refuse("expected ", name, " at a multiple of ", view.element_bytes, " bytes, got an address in between");
}

// Reads a tensor's metadata; refuses what has no memory of its own that strides describe.
inline View view_of(const Tensor& tensor, Name name, bool written = false) {
  static const int32_t strided = aoti_torch_layout_strided();
  const AtenTensorHandle handle = tensor.get();
  if (!tensor.defined()) refuse("expected ", name, " to be a tensor, got none");
  int32_t layout;
  check_torch(aoti_torch_get_layout(handle, &layout));
  if (layout != strided) refuse("expected ", name, " to be strided, got layout ", layout);
  View view = {};
  int64_t *sizes, *strides;
  check_torch(aoti_torch_get_dim(handle, &view.dims));
  check_torch(aoti_torch_get_sizes(handle, &sizes));
  check_torch(aoti_torch_get_strides(handle, &strides));
  check_torch(aoti_torch_get_dtype(handle, &view.dtype));
  check_torch(aoti_torch_get_device_type(handle, &view.device_type));
  check_torch(aoti_torch_get_device_index(handle, &view.device_index));
  if (view.dims > kMostDims) refuse("expected ", name, " of at most ", kMostDims, " dimensions, got ", view.dims);
  view.sizes = sizes, view.strides = strides;
  view.element_bytes = is_floating(view) ? bytes_of(dtype_of(view))
                                         : static_cast<int64_t>(aoti_torch_dtype_element_size(view.dtype));
  check_torch(aoti_torch_get_numel(handle, &view.count));
  if (view.count == 0) return view;
  view.span = span_of(view, name);
  if (written) {
    void* data;
    check_torch(torch_get_mutable_data_ptr(handle, &data));
    view.data = static_cast<char*>(data);
  } else {
    const void* data;
    check_torch(torch_get_const_data_ptr(handle, &data));
    view.data = static_cast<char*>(const_cast<void*>(data));
  }
  check_storage(tensor, view, name);
  return view;
}

}  // namespace tip
