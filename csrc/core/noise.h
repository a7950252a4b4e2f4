// Which noise a unit gets. A unit is a conv kernel or, in a tensor without a high band, one element.
#pragma once

#include "core/macros.h"

namespace tip {

enum class Noise : uint8_t {
  untouched,  // neither read nor written
  none,       // grad_scale only
  white,      // floor_std on every tap: K normals a unit
  band,       // std on the high band: d normals a unit
  full,       // std on the high band, floor_std on the rest: K normals a unit
  colored,    // floor_std times an amplitude on each coefficient: K normals a unit
};

}  // namespace tip

TIP_BEGIN_NAMESPACE

// Whether it is that of a selected channel.
TIP_HD bool is_of_selected(Noise noise) { return noise == Noise::band || noise == Noise::full; }

// `floor`, `scaled`: whether the call has a floor_std and a grad_scale; `shaped`: whether the tensor has amplitudes.
TIP_HD Noise noise_of(bool selected, bool floor, bool scaled, bool shaped) {
  if (selected) return floor ? Noise::full : Noise::band;
  if (floor) return shaped ? Noise::colored : Noise::white;
  return scaled ? Noise::none : Noise::untouched;
}

TIP_END_NAMESPACE
