// What the normals of a run are multiplied by.
#pragma once

#include "core/basis3x3.h"
#include "cpu/run.h"

TIP_BEGIN_NAMESPACE

struct Amounts {
  float drawn = 0;  // all normals of a group, as they are drawn; where they differ, by 1 and then:
  bool mixed = false;
  float high = 0;  // those of the high band
  float low = 0;   // the others

  Amounts() = default;
  explicit Amounts(const Run& run) {
    const RunTensor& tensor = *run.tensor;
    const bool in_basis_3x3 = tensor.basis != nullptr && tensor.basis->all_but_dc_3x3;
    high = tensor.std * (in_basis_3x3 ? kGain3x3 : 1.0f);
    low = tensor.floor_std * (in_basis_3x3 ? kDcGain3x3 : 1.0f);
    mixed = run.noise == Noise::full;
    drawn = mixed ? 1.0f : run.noise == Noise::band ? high : tensor.floor_std;
  }
};

TIP_END_NAMESPACE
