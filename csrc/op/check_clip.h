// What every compiled library checks of a call of clip_scale.
#pragma once

#include <optional>
#include <vector>

#include "op/check_arguments.h"

namespace tip {

// The tensors among the arguments of clip_scale.
struct ClipViews {
  std::vector<View> grads;
  std::vector<View> forms;
  std::vector<int64_t> form_ids;  // of each gradient; -1 for none
  View grad_scale, state;

  // What a gradient counts by: [taps, taps], null for as it is.
  const double* form(size_t i) const {
    return form_ids[i] < 0 ? nullptr : reinterpret_cast<const double*>(forms[form_ids[i]].data);
  }
  int64_t taps(size_t i) const { return form_ids[i] < 0 ? 1 : forms[form_ids[i]].sizes[0]; }
};

inline void check_forms(const std::vector<Tensor>& forms, const std::optional<std::vector<int64_t>>& form_ids,
                        size_t count, ClipViews& views) {
  for (size_t f = 0; f < forms.size(); ++f)
    views.forms.push_back(square_of(forms[f], {"forms", static_cast<int64_t>(f)}, views.state));
  views.form_ids = form_ids ? *form_ids : std::vector<int64_t>(count, -1);
  if (views.form_ids.size() != count) refuse("expected form_ids of length ", count, ", got ", views.form_ids.size());
  const int64_t known = static_cast<int64_t>(forms.size());
  for (size_t i = 0; i < count; ++i)
    if (views.form_ids[i] < -1 || views.form_ids[i] >= known)
      refuse("expected form_ids[", i, "] in [-1, ", known, "), got ", views.form_ids[i]);
}

// Raises std::runtime_error unless clip_scale can run.
inline ClipViews check_clip(const std::vector<Tensor>& grads, const std::optional<Tensor>& grad_scale,
                            const Tensor& state, double max_norm, const std::vector<Tensor>& forms,
                            const std::optional<std::vector<int64_t>>& form_ids) {
  ClipViews views = {};
  views.state = state_of(state, true);
  if (!(max_norm > 0)) refuse("expected max_norm above 0, got ", max_norm);
  if (grad_scale) views.grad_scale = table_of(*grad_scale, {"grad_scale"}, dtype_numbers().f32, 0, views.state);
  check_forms(forms, form_ids, grads.size(), views);
  views.grads.reserve(grads.size());
  for (size_t i = 0; i < grads.size(); ++i) {
    const Name name = {"grads", static_cast<int64_t>(i)};
    const View& grad = views.grads.emplace_back(view_of(grads[i], name));
    if (views.taps(i) > 1 && (grad.dims < 3 || grad.taps() != views.taps(i)))
      refuse("expected ", name, " with kernels of ", views.taps(i), " taps, as its form has, got ", grad.taps(), " in ",
             grad.dims, " dimensions");
    if (!is_floating(grad))
      refuse("expected ", name, " of dtype float32, float64, bfloat16 or float16, got torch's dtype ", grad.dtype);
    check_device(grad, views.state, name);
  }
  return views;
}

}  // namespace tip
