// Normals of the lanes of a vector. By functions behind pointers, so that what calls them is there once for all
// generators.
#pragma once

#include "cpu/pack.h"  // before core/, which uses its overloads

#include "core/generate.h"
#include "core/normals.h"
#include "cpu/counters.h"

TIP_BEGIN_NAMESPACE

constexpr int kNextKernel = 10;  // nine normals, and the one that the last of them comes with

template <int kPairs>
TIP_HD void normals_of_pairs(const U* words, float amplitude, F* z) {
  Pack<U, kPairs> first, second;
  Pack<F, kPairs> even, odd;
  for (int i = 0; i < kPairs; ++i) first.v[i] = words[2 * i], second.v[i] = words[2 * i + 1];
  box_muller(first, second, amplitude, even, odd);
  for (int i = 0; i < kPairs; ++i) z[2 * i] = even.v[i], z[2 * i + 1] = odd.v[i];
}

template <int kGenerator>
void draw_group(const Stream& stream, const Counter<U>& group, int64_t pitch, int64_t used, float amplitude, F* z) {
  U words[kGroup];
  generate<kGenerator>(stream, group, words);
  for (int64_t w = 0; w < kGroup; w += 2 * kPack)
    if ((w & (pitch - 1)) < used) normals_of_pairs<kPack>(words + w, amplitude, z + w);
}

template <int kGenerator>
void draw_two_kernels(const Stream& stream, const Counter<U>& group, float amplitude, F* z) {
  U words[kNextKernel + kGroup];
  Counter<U> next = group;
  advance(next, 1);
  generate<kGenerator>(stream, group, words);
  generate<kGenerator>(stream, next, words + kNextKernel);
  constexpr int kPairs = kNextKernel, kLeft = kPairs % kPack;
  int pair = 0;
  for (; pair + kPack <= kPairs; pair += kPack) normals_of_pairs<kPack>(words + 2 * pair, amplitude, z + 2 * pair);
  if constexpr (kLeft > 0) normals_of_pairs<kLeft>(words + 2 * pair, amplitude, z + 2 * pair);
}

// All normals are multiplied by `amplitude`.
struct Draw {
  // Of each lane's group: the first `used` of every `pitch` values of z [kGroup].
  void (*group)(const Stream& stream, const Counter<U>& group, int64_t pitch, int64_t used, float amplitude, F* z);
  // Of the first nine words of each lane's group, and of the group after it, to z [9] and z + kNextKernel.
  void (*two_kernels)(const Stream& stream, const Counter<U>& group, float amplitude, F* z);

  explicit Draw(int generator) {
    with_generator(generator, [&](auto known) {
      constexpr int kGenerator = decltype(known)::value;
      group = draw_group<kGenerator>;
      two_kernels = draw_two_kernels<kGenerator>;
    });
  }
};

TIP_END_NAMESPACE
