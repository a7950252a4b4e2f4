// A warp's elements between device and shared memory: neighboring threads move neighboring 16 bytes, and then each
// thread finds its own elements together.
#pragma once

#include "cuda/block.h"

TIP_BEGIN_NAMESPACE

constexpr int kWarp = 32;

// Where the bytes of a warp lie in shared memory: rows of kRow bytes, kPitch bytes apart. Of 16-byte accesses of 8
// threads to successive rows none meet in a bank if kPitch / 16 is odd.
template <int kRowBytes, int kPitchBytes>
struct SharedRows {
  static constexpr int kRow = kRowBytes, kPitch = kPitchBytes;
  TIP_HD static int offset(int byte) { return kRow == kPitch ? byte : byte + byte / kRow * (kPitch - kRow); }
};
using Together = SharedRows<16, 16>;

// Copies kBytes, a multiple of 16 at aligned addresses; loads have arrived after wait_for_copies and sync_warp.
template <bool kLoad, int kBytes, class Rows>
TIP_HD void copy_whole(char* shared, char* gradient, int thread) {
  constexpr int kStep = kWarp * 16;
  const int own = thread % kWarp * 16;
  TIP_UNROLL
  for (int i = 0; i < kBytes; i += kStep) {
    if (i + kStep > kBytes && own >= kBytes - i) continue;
    char* here = shared + Rows::offset(i + own);
    kLoad ? start_copy(here, gradient + i + own) : copy16(gradient + i + own, here);
  }
}

// Copies those of kElements elements for which takes(i) is true.
template <bool kLoad, class Bits, int kElements, class Rows, class Takes>
TIP_HD void copy_some(char* shared, char* gradient, int thread, Takes takes) {
  TIP_ROLLED
  for (int i = thread % kWarp; i < kElements; i += kWarp) {
    if (!takes(i)) continue;
    Bits* here = reinterpret_cast<Bits*>(shared + Rows::offset(i * static_cast<int>(sizeof(Bits))));
    Bits* there = reinterpret_cast<Bits*>(gradient) + i;
    if (kLoad) {
      *here = *there;
    } else {
      *there = *here;
    }
  }
}

TIP_END_NAMESPACE
