// Where the CPU kernel's time goes, a stage at a time: see bench/speed/stages.py, which compiles and runs this.
#include "cpu/perturb.cpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace tip {
inline namespace TIP_VARIANT {
namespace {

constexpr int kBatches = 128;  // of kLanes groups: some 10 microseconds, in which other programs seldom interrupt
constexpr int kRepeats = 4096;

volatile float sink;

// The least nanoseconds of a normal that f(batch), which makes `normals`, takes.
template <class Function>
double nanoseconds(int64_t normals, Function f) {
  double least = 1e9;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (int batch = 0; batch < kBatches; ++batch) f(batch);
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    least = std::min(least, time.count() / (static_cast<double>(normals) * kBatches));
  }
  return least;
}

// Has the compiler believe that the values are read.
template <class V>
void keep(const V* values) {
  asm volatile("" ::"r"(values) : "memory");
}

Counter<U> counters(int batch) {
  U low, high = {};
  for (int lane = 0; lane < kLanes; ++lane) low[lane] = batch * kLanes + lane;
  return {low, high};
}

void pairs(const U* words, F* z) {
  for (int w = 0; w < kGroup; w += 2 * kPack) normals_of_pairs<kPack>(words + w, 1e-3f, z + w);
}

template <int kGenerator>
double time_words() {
  Stream stream = {};
  return nanoseconds(kGroup * kLanes, [&](int batch) {
    U words[kGroup];
    generate<kGenerator>(stream, counters(batch), words);
    keep(words);
  });
}

double time_normals() {
  U words[kGroup];
  generate<12>(Stream{}, counters(1), words);
  return nanoseconds(kGroup * kLanes, [&](int) {
    F z[kGroup];
    asm volatile("" : "+m"(words));
    pairs(words, z);
    keep(z);
  });
}

double time_synthesis() {
  F z[kGroup] = {};
  return nanoseconds(kGroup * kLanes, [&](int) {
    F y[18];
    asm volatile("" : "+m"(z));
    synthesize_3x3(z, y);
    synthesize_3x3(z + 8, y + 9);
    keep(y);
  });
}

// To memory order, and onto gradients in the first-level cache.
double time_addition() {
  alignas(64) F columns[kPair3x3] = {};
  alignas(64) float gradients[kPair3x3 * kLanes] = {};
  return nanoseconds(kGroup * kLanes, [&](int) {
    asm volatile("" : "+m"(columns));
    Contiguous<float>{}.add(gradients, 1.0f, columns, NoGrid());
    keep(gradients);
  });
}

// All of it, on 3x3 kernels of one selected channel that stay in the second-level cache, or not.
double time_kernel(int generator, int64_t kernels) {
  std::vector<double> exact(81);
  std::vector<float> rounded(81), gradient(9 * kernels);
  const Order3x3 order = {true, {0, 1, 2, 3, 4, 5, 6, 7, 8}};
  const Basis basis = {9, 8, exact.data(), rounded.data(), order, true};
  std::vector<int64_t> offsets(9);
  for (int i = 0; i < 9; ++i) offsets[i] = i;
  const RunTensor tensor = {DType::f32, 0, &basis, 9, 8, offsets.data(), true, 1e-3f, 0.0f, {}, {}, 0.0f};
  Run run = {&tensor, Noise::band, {2, 1}, reinterpret_cast<char*>(gradient.data()), 9, 0, kernels, 0};
  run.end = run.lanes();
  const RunTable table = {{}, generator, 1.0f, 1.0, &run, 1};
  const ScratchSizes sizes = scratch_sizes(table);
  std::vector<F> memory(sizes.floats() / kLanes + 1);  // of vectors, for their alignment
  const int64_t repeats = std::max<int64_t>(15, (int64_t{1} << 23) / kernels);
  double least = 1e9;
  for (int64_t repeat = 0; repeat < repeats; ++repeat) {
    Portions portions(table);
    const auto start = std::chrono::steady_clock::now();
    perturb_portions(table, portions, sizes, reinterpret_cast<float*>(memory.data()));
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    least = std::min(least, time.count() / static_cast<double>(8 * kernels));
  }
  sink = gradient[0];
  return least;
}

}  // namespace
}  // namespace TIP_VARIANT
}  // namespace tip

int main() {
  const auto print = [](const char* name, double time) { std::printf("%s\t%.3f\n", name, time); };
  print("words, chacha8", tip::time_words<8>());
  print("words, chacha12", tip::time_words<12>());
  print("words, chacha20", tip::time_words<20>());
  print("words, philox", tip::time_words<10>());
  print("Box-Muller", tip::time_normals());
  print("3x3 synthesis", tip::time_synthesis());
  print("transposition and addition", tip::time_addition());
  print("whole kernel, 576 KiB, chacha12", tip::time_kernel(12, 1 << 14));
  print("whole kernel, 576 KiB, philox", tip::time_kernel(10, 1 << 14));
  print("whole kernel, 72 MiB, chacha12", tip::time_kernel(12, 1 << 21));
  print("whole kernel, 72 MiB, philox", tip::time_kernel(10, 1 << 21));
}
