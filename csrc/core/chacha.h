// ChaCha (Bernstein 2008) with a 64-bit counter and a 64-bit nonce, for any word type with 32-bit lanes.
#pragma once

#include "core/address.h"

TIP_BEGIN_NAMESPACE

template <int kBits, class U>
TIP_HD U rotate_left(U x) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_l(x, x, kBits);
#else
  return x << kBits | x >> (32 - kBits);
#endif
}

template <class U>
TIP_HD void quarter_round(U& a, U& b, U& c, U& d) {
  a += b, d = rotate_left<16>(d ^ a);
  c += d, b = rotate_left<12>(b ^ c);
  a += b, d = rotate_left<8>(d ^ a);
  c += d, b = rotate_left<7>(b ^ c);
}

// A round of all columns, or all diagonals.
template <class U>
TIP_HD void chacha_columns(U x[16]) {
  quarter_round(x[0], x[4], x[8], x[12]);
  quarter_round(x[1], x[5], x[9], x[13]);
  quarter_round(x[2], x[6], x[10], x[14]);
  quarter_round(x[3], x[7], x[11], x[15]);
}

template <class U>
TIP_HD void chacha_diagonals(U x[16]) {
  quarter_round(x[0], x[5], x[10], x[15]);
  quarter_round(x[1], x[6], x[11], x[12]);
  quarter_round(x[2], x[7], x[8], x[13]);
  quarter_round(x[3], x[4], x[9], x[14]);
}

// The state before the first round.
template <class U>
TIP_HD void chacha_start(const Stream& stream, Counter<U> counter, U x[16]) {
  const U zero = counter.low ^ counter.low;
  x[0] = zero + 0x61707865u, x[1] = zero + 0x3320646eu, x[2] = zero + 0x79622d32u, x[3] = zero + 0x6b206574u;
  TIP_UNROLL
  for (int i = 0; i < 8; ++i) x[4 + i] = zero + stream.key[i];
  x[12] = counter.low;
  x[13] = counter.high;
  x[14] = zero + static_cast<uint32_t>(stream.step);
  x[15] = zero + static_cast<uint32_t>(stream.step >> 32);
}

// One block of 16 words per lane.
template <int kRounds, class U>
TIP_HD void chacha(const Stream& stream, Counter<U> counter, U out[16]) {
  static_assert(kRounds % 2 == 0, "ChaCha alternates column and diagonal rounds");
  U x[16];
  chacha_start(stream, counter, x);
  TIP_UNROLL
  for (int round = 0; round < kRounds; round += 2) {
    chacha_columns(x);
    chacha_diagonals(x);
  }
  chacha_start(stream, counter, out);
  for (int i = 0; i < 16; ++i) out[i] += x[i];
}

TIP_END_NAMESPACE
