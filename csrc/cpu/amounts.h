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
  const A* each;          // of a tensor with amplitudes, in their place: of each coefficient; in cpu/kernel3x3.h in the
  const uint8_t* column;  // order there, from these columns
  A scale;                // multiplies gradients
  bool replaces;  // a part of the high band, with `keep` != 1: kernels of cpu/kernel3x3.h get `mean` times the sum of
  A mean;         // their gradients, others `removed` times the coefficients of their gradients in the high band
  A removed;

  Amounts(const RunTable& table, const Run& run) {
    const RunTensor& tensor = *run.tensor;
    const bool white = run.noise == Noise::white, is_float = sizeof(A) == sizeof(float);
    const bool colored = run.noise == Noise::colored;
    const bool in_basis_3x3 = !white && tensor.basis != nullptr && tensor.basis->all_but_dc_3x3;
    high = static_cast<A>(tensor.std) * static_cast<A>(in_basis_3x3 ? kExactGain3x3 : 1.0);
    low = static_cast<A>(tensor.floor_std) * static_cast<A>(in_basis_3x3 ? kExactDcGain3x3 : 1.0);
    if (white) high = low;
    each = amounts_of(colored ? tensor.of_others : tensor.of_selected);
    if (white) each = nullptr;
    column = each ? tensor.basis->order_3x3.column : nullptr;
    varied = !is_float || run.noise == Noise::full || each;
    drawn = varied ? 1.0f : static_cast<float>(high);

    const double scaled = table.grad_scale;
    replaces = !white && !colored && table.keep != 1.0;
    scale = static_cast<A>(replaces && in_basis_3x3 ? scaled * table.keep : scaled);
    mean = static_cast<A>(scaled * (1.0 - table.keep) / 9);
    removed = static_cast<A>(scaled * (table.keep - 1.0));
  }

  // Of normal j in a basis of cpu/project.h.
  TIP_HD A of(int64_t j, int64_t high_dim) const { return each ? each[j] : j < high_dim ? high : low; }

 private:
  static const A* amounts_of(const CoefficientAmounts& amounts) {
    if constexpr (sizeof(A) == sizeof(double)) {
      return amounts.exact;
    } else {
      return amounts.rounded;
    }
  }
};

TIP_END_NAMESPACE
