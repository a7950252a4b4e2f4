// Philox4x32-10 (Salmon et al. 2011): reproducible and not secure.
#pragma once

#include "core/address.h"
#include "core/lanes.h"

TIP_BEGIN_NAMESPACE

// One block of 4 words per lane.
template <class U>
TIP_HD void philox(const Stream& stream, Counter<U> counter, U out[4]) {
  const U zero = counter.low ^ counter.low;
  auto c0 = to_factors(counter.low), c1 = to_factors(counter.high);
  auto c2 = to_factors(zero + static_cast<uint32_t>(stream.step));
  auto c3 = to_factors(zero + static_cast<uint32_t>(stream.step >> 32));
  uint32_t k0 = stream.key[0], k1 = stream.key[1];
  TIP_UNROLL
  for (int round = 0; round < 10; ++round) {
    decltype(c0) high0, low0, high1, low1;
    multiply_wide(c0, 0xD2511F53u, high0, low0);
    multiply_wide(c2, 0xCD9E8D57u, high1, low1);
    c0 = high1 ^ c1 ^ k0;
    c2 = high0 ^ c3 ^ k1;
    c1 = low1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = from_factors(c0), out[1] = from_factors(c1), out[2] = from_factors(c2), out[3] = from_factors(c3);
}

TIP_END_NAMESPACE
