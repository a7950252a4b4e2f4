// What the noise and the gradients of a run are multiplied by.
#pragma once

#include "core/basis3x3.h"
#include "cpu/run.h"

TIP_BEGIN_NAMESPACE

// In arithmetic A. Normals in float that all get the same are multiplied by it as they are drawn, those in double after
// they have been widened.
template <class A>
struct Amounts {
  float drawn;  // multiplies normals as they are drawn
  bool varied;  // whether then `high` multiplies those of the high band, or all of white noise, and `low` the others
  A high, low;
  A scale;        // multiplies gradients
  bool replaces;  // a part of the high band, with `keep` != 1: kernels of cpu/kernel3x3.h get `mean` times the sum of
  A mean;         // their gradients, others `removed` times the coefficients of their gradients in the high band
  A removed;

  Amounts(const RunTable& table, const Run& run) {
    const RunTensor& tensor = *run.tensor;
    const bool white = run.noise == Noise::white, is_float = sizeof(A) == sizeof(float);
    const bool in_basis_3x3 = !white && tensor.basis != nullptr && tensor.basis->all_but_dc_3x3;
    high = static_cast<A>(tensor.std) * static_cast<A>(in_basis_3x3 ? kExactGain3x3 : 1.0);
    low = static_cast<A>(tensor.floor_std) * static_cast<A>(in_basis_3x3 ? kExactDcGain3x3 : 1.0);
    if (white) high = low;
    varied = !is_float || run.noise == Noise::full;
    drawn = varied ? 1.0f : static_cast<float>(high);

    const double scaled = table.grad_scale;
    replaces = !white && table.keep != 1.0;
    scale = static_cast<A>(replaces && in_basis_3x3 ? scaled * table.keep : scaled);
    mean = static_cast<A>(scaled * (1.0 - table.keep) / 9);
    removed = static_cast<A>(scaled * (table.keep - 1.0));
  }
};

TIP_END_NAMESPACE
