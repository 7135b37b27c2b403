// The processor's own limit: independent multiply-adds on registers.  Compiled once per instruction set.
#include <atomic>

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace aru {
namespace ARU_ISA {
namespace {

// More than the 10 multiply-adds under way in two units with a latency of 5, and few enough for 16 registers.
constexpr int chains = 12;
constexpr int64_t steps = 1000;

// Every step waits for the previous one of its chain.  With x = y = 1/2 the sums tend to 1.  Each chain begins at
// another number, because the compiler would merge equal chains.
template <class V, class Step> double run_chains(int64_t rounds, const Step& step) {
  V sum[chains];
#pragma GCC unroll 12
  for (int c = 0; c < chains; ++c) sum[c] = splat<V>(element_of<V>(c + 2));
  for (int64_t i = 0; i < rounds * steps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = step(sum[c]);
  }
  double total = 0;
  for (int c = 0; c < chains; ++c) total += double(sum[c][0]);
  return total;
}

template <class T> double run(int64_t rounds) {
  const vec<T> half = splat<vec<T>>(T(0.5));
  return run_chains<vec<T>>(rounds, [half](vec<T> sum) { return sum * half + half; });
}

}  // namespace

double multiply_adds(Scalar scalar, int64_t rounds, int threads) {
  threads = threads > 1 ? usable_threads(threads) : 1;
  std::atomic<int> done{0};
  const auto work = [&](int, int) {
    double total = 0;
    if (scalar == Scalar::float64) {
      total = run<double>(rounds);
    } else if (scalar == Scalar::bfloat16_products) {
      const vint32 halves = pair_bfloat16(splat<vfloat>(0.5f), splat<vfloat>(-0.5f));
      total = run_chains<vfloat>(rounds, [halves](vfloat sum) { return dot_pairs(sum, halves, halves); });
    } else {
      total = run<float>(rounds);
    }
    if (total != 0) done.fetch_add(1);  // the sums must be used
  };
  if (threads > 1) {
    in_threads(threads, work);
  } else {
    work(0, 1);
  }
  const int64_t per_vector = scalar == Scalar::float64             ? 2 * lanes<double>
                             : scalar == Scalar::bfloat16_products ? 4 * lanes<float>
                                                                   : 2 * lanes<float>;
  return double(done.load()) * double(rounds * steps * chains * per_vector);
}

}  // namespace ARU_ISA
}  // namespace aru
