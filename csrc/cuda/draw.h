// The normals of one group of words in the fewest instructions of a GPU, whose integer unit is its narrowest: same
// words as core/generate.h, same normals as core/normals.h up to rounding.
#pragma once

#include "core/generate.h"
#include "core/normals.h"

TIP_BEGIN_NAMESPACE

// What a generator needs besides a counter: the stream and, of ChaCha's first round, the columns 2 and 3, in which the
// counter has no part.
struct Source {
  Stream stream;
  uint32_t column[2][4];
};

// Word i of the key.
TIP_HD uint32_t key_word(const int64_t* state, int i) { return static_cast<uint32_t>(state[i / 2] >> (i % 2 * 32)); }

TIP_HD Stream read_stream(const int64_t* state) {
  Stream stream;
  TIP_UNROLL
  for (int i = 0; i < 8; ++i) stream.key[i] = key_word(state, i);
  stream.step = static_cast<uint64_t>(state[4]);
  return stream;
}

// Column 2 or 3 after the first round.
TIP_HD void start_column(const int64_t* state, uint64_t step, int i, uint32_t out[4]) {
  uint32_t a = i == 2 ? 0x79622d32 : 0x6b206574;
  uint32_t b = key_word(state, i), c = key_word(state, 4 + i), d = static_cast<uint32_t>(step >> (i - 2) * 32);
  quarter_round(a, b, c, d);
  out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

template <int kRounds>
TIP_HD void chacha_words(const Source& source, Counter<uint32_t> counter, uint32_t out[kGroup]) {
  uint32_t x[16];
  chacha_start(source.stream, counter, x);
  quarter_round(x[0], x[4], x[8], x[12]);
  quarter_round(x[1], x[5], x[9], x[13]);
  TIP_UNROLL
  for (int row = 0; row < 4; ++row) x[4 * row + 2] = source.column[0][row], x[4 * row + 3] = source.column[1][row];
  chacha_diagonals(x);
  TIP_UNROLL
  for (int round = 2; round < kRounds; round += 2) {
    chacha_columns(x);
    chacha_diagonals(x);
  }
  chacha_start(source.stream, counter, out);
  TIP_UNROLL
  for (int i = 0; i < 16; ++i) out[i] += x[i];
}

// One over the root, off by at most 2^-22.9 of it on a device (PTX ISA, rsqrt.approx); by more on the host, where tests
// show that it does not matter.
TIP_HD float reciprocal_root(float x) {
#if defined(__CUDA_ARCH__)
  float root;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#else
  return 1.0f / sqrtf(x) * (1.0f + 0x1p-22f);
#endif
}

// The root of 0 or of a normal number far above 1e-30, within a unit in the last place: a Newton step squares the
// approximation's error. Half the instructions of the exactly rounded root, and no branch.
TIP_HD float newton_root(float x) {
  const float inverse = reciprocal_root(x + 1e-30f);  // finite for 0, and no other x changes
  const float root = x * inverse;
  return fmaf(0.5f * inverse, fmaf(-root, root, x), root);
}

// Box-Muller, as in core/normals.h. The angle is split at 0 and half a turn, where the sign is the word's own; what is
// left is a quarter turn too much.
TIP_HD void pair_of_normals(uint32_t first, uint32_t second, float scale, float& even, float& odd) {
  const float u = to_float(first) * 0x1p-32f + 0x1p-33f;
  const uint32_t exponent = (float_bits(u) - 0x3F3504F3u) & 0xFF800000u;  // e * 2^23
  const float f = bits_float(float_bits(u) - exponent) - 1.0f;
  const float radius = newton_root(to_float(as_int(exponent)) * (-1.3862944f * 0x1p-23f) + minus_two_log1p(f)) * scale;
  const float r = bits_float(float_bits(radius) ^ (second & 0x80000000u));
  const float x = to_float(as_int(second * 2 + 0x80000000u)) * 7.314590396335798e-10f;  // pi / 2^32
  const float z = x * x;
  even = -(r * x) * sine_ratio(z);
  odd = r * cosine(z);
}

template <int kGenerator>
TIP_HD void draw(const Source& source, uint32_t tensor, uint64_t group, float scale, float z[kGroup]) {
  uint32_t words[kGroup];
  if constexpr (is_chacha(kGenerator)) {
    chacha_words<kGenerator>(source, counter(tensor, group), words);
  } else {
    generate<kGenerator>(source.stream, counter(tensor, group), words);
  }
  TIP_UNROLL
  for (int w = 0; w < kGroup; w += 2) pair_of_normals(words[w], words[w + 1], scale, z[w], z[w + 1]);
}

TIP_END_NAMESPACE
