// Box-Muller of one CPU variant on every word, or on every `stride`-th, against float64.
//
//     every_normal <stride> <pairs> <threads>
//
// Prints, in units of the radius: the worst error of the radius over all first words, of cosine and sine over all
// second words, of normals for random pairs of words, each with the word at which it happens, and the root of the mean
// square. The first line counts words whose u is not that of the contract. tests/every_normal.py builds and judges.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "cpu/pack.h"  // before core/, which uses its overloads

#include "core/normals.h"

namespace {

using tip::F;
using tip::kLanes;
using tip::U;

constexpr double kTurn = 6.283185307179586476925;
constexpr uint64_t kWords = uint64_t{1} << 32;

struct Worst {
  double error = 0, squares = 0;
  uint32_t word = 0, second = 0;
  uint64_t count = 0;

  void add(double got, double exact, double unit, uint32_t at, uint32_t at_second = 0) {
    const double off = std::fabs(got - exact) / unit;
    squares += off * off, ++count;
    if (!(off <= error)) error = off, word = at, second = at_second;  // a NaN is the worst of all
  }
  void add(const Worst& other) {
    squares += other.squares, count += other.count;
    if (!(other.error <= error)) error = other.error, word = other.word, second = other.second;
  }
};

struct Report {
  uint64_t wrong_u = 0, wrong_zero = 0;
  Worst radius, cosine, sine, even, odd;
};

float u_of_contract(uint32_t word) { return static_cast<float>(static_cast<float>(word) * 0x1p-32f) + 0x1p-33f; }

U lanes_from(uint64_t first, uint64_t stride) {
  U words;
  for (int lane = 0; lane < kLanes; ++lane) words[lane] = static_cast<uint32_t>(first + lane * stride);
  return words;
}

// First words, with a second word of no angle: the even normal is the radius.
void check_radii(uint64_t begin, uint64_t end, uint64_t stride, Report& report) {
  float u_before = -1;
  double exact = 0;
  for (uint64_t first = begin; first < end; first += kLanes * stride) {
    const U words = lanes_from(first, stride);
    const F u = tip::to_float(words) * 0x1p-32f + 0x1p-33f;
    F even, odd;
    tip::box_muller(words, words ^ words, 1.0f, even, odd);
    for (int lane = 0; lane < kLanes && first + lane * stride < end; ++lane) {
      report.wrong_u += u[lane] != u_of_contract(words[lane]);
      if (u[lane] != u_before) exact = std::sqrt(-2.0 * std::log(static_cast<double>(u[lane])));
      u_before = u[lane];
      if (exact == 0) {
        report.wrong_zero += even[lane] != 0;
      } else {
        report.radius.add(even[lane], exact, exact, words[lane]);
      }
    }
  }
}

// cos and sin of an angle as the product of two rotations, by its upper and lower 16 bits: exact to 1e-15.
struct Rotation {
  double cosine, sine;
};

std::vector<Rotation> rotations(double unit) {
  std::vector<Rotation> table(1 << 16);
  for (size_t i = 0; i < table.size(); ++i) table[i] = {std::cos(unit * i), std::sin(unit * i)};
  return table;
}

// Second words, on the circle of radius 1.
void check_angles(uint64_t begin, uint64_t end, uint64_t stride, Report& report) {
  static const std::vector<Rotation> upper = rotations(kTurn * 0x1p-16), lower = rotations(kTurn * 0x1p-32);
  const F one = F{} + 1.0f;
  for (uint64_t first = begin; first < end; first += kLanes * stride) {
    const U words = lanes_from(first, stride);
    F even, odd;
    tip::on_circle<U, F>(one, words, even, odd);
    for (int lane = 0; lane < kLanes && first + lane * stride < end; ++lane) {
      const uint32_t word = words[lane];
      const Rotation a = upper[word >> 16], b = lower[word & 0xFFFF];
      report.cosine.add(even[lane], a.cosine * b.cosine - a.sine * b.sine, 1, word);
      report.sine.add(odd[lane], a.sine * b.cosine + a.cosine * b.sine, 1, word);
    }
  }
}

// Both words, a Weyl sequence each, several vectors side by side as the kernel does it.
void check_pairs(uint64_t begin, uint64_t end, Report& report) {
  constexpr int kSize = tip::kPack;
  for (uint64_t pair = begin; pair < end; pair += kLanes * kSize) {
    tip::Pack<U, kSize> first, second;
    for (int i = 0; i < kSize; ++i) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint64_t place = pair + i * kLanes + lane;
        first.v[i][lane] = static_cast<uint32_t>(place * 0x9E3779B97F4A7C15u >> 32);
        second.v[i][lane] = static_cast<uint32_t>(place * 0xD1342543DE82EF95u >> 32);
      }
    }
    tip::Pack<F, kSize> even, odd;
    tip::box_muller(first, second, 1.0f, even, odd);
    for (int i = 0; i < kSize; ++i) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint32_t a = first.v[i][lane], b = second.v[i][lane];
        const double radius = std::sqrt(-2.0 * std::log(static_cast<double>(u_of_contract(a))));
        if (radius == 0) continue;
        const double angle = kTurn * 0x1p-32 * b;
        report.even.add(even.v[i][lane], radius * std::cos(angle), radius, a, b);
        report.odd.add(odd.v[i][lane], radius * std::sin(angle), radius, a, b);
      }
    }
  }
}

void print(const char* name, const Worst& worst) {
  std::printf("%s %llu %.4e %.4e %u %u\n", name, static_cast<unsigned long long>(worst.count), worst.error,
              std::sqrt(worst.squares / static_cast<double>(worst.count)), worst.word, worst.second);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const uint64_t stride = std::strtoull(argv[1], nullptr, 10), pairs = std::strtoull(argv[2], nullptr, 10);
  const uint64_t threads = std::strtoull(argv[3], nullptr, 10);
  const uint64_t piece = (kWords / threads + kLanes * stride - 1) / (kLanes * stride) * (kLanes * stride);
  std::vector<Report> reports(threads);
  std::vector<std::thread> pool;
  for (uint64_t i = 0; i < threads; ++i) {
    pool.emplace_back([&, i] {
      const uint64_t begin = i * piece, end = begin + piece < kWords ? begin + piece : kWords;
      check_radii(begin, end, stride, reports[i]);
      check_angles(begin, end, stride, reports[i]);
      if (i == 0 && stride > 1) check_radii(kWords - 65536, kWords, 1, reports[i]);  // where the radius goes to zero
      check_pairs(i * pairs / threads, (i + 1) * pairs / threads, reports[i]);
    });
  }
  for (std::thread& thread : pool) thread.join();
  Report all;
  for (const Report& report : reports) {
    all.wrong_u += report.wrong_u, all.wrong_zero += report.wrong_zero;
    all.radius.add(report.radius), all.cosine.add(report.cosine), all.sine.add(report.sine);
    all.even.add(report.even), all.odd.add(report.odd);
  }
  std::printf("wrong_u %llu\nwrong_zero %llu\n", static_cast<unsigned long long>(all.wrong_u),
              static_cast<unsigned long long>(all.wrong_zero));
  print("radius", all.radius), print("cosine", all.cosine), print("sine", all.sine);
  print("even", all.even), print("odd", all.odd);
}
