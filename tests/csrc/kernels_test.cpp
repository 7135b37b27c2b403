// Runs every kernel of every instruction set over odd shapes, on buffers of exactly the right size, so that a
// sanitizer sees each access; tests/test_sanitizers.py builds and runs it.  Checks that results do not depend on the
// number of threads or the segment, bit for bit, and agree between instruction sets.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"
#include "vectors_test.h"

std::vector<VectorCheck>& vector_checks() {
  static std::vector<VectorCheck> checks;
  return checks;
}

void add_vector_check(VectorCheck check) { vector_checks().push_back(check); }

namespace {

int failures = 0;

void expect(bool ok, const std::string& what) {
  if (!ok) {
    std::printf("FAILED: %s\n", what.c_str());
    ++failures;
  }
}

template <class T> struct Tensor {
  std::unique_ptr<T[]> data;  // not a vector: its capacity might hide an access past the end
  int64_t count;

  explicit Tensor(int64_t n) : data(new T[size_t(n)]), count(n) {
    for (int64_t i = 0; i < n; ++i) data[size_t(i)] = T(NAN);
  }
  Tensor(int64_t n, unsigned seed, double scale) : Tensor(n) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal(0, scale);
    for (int64_t i = 0; i < n; ++i) data[size_t(i)] = T(normal(generator));
  }
  T* get() const { return data.get(); }
};

template <class T> using Results = std::vector<Tensor<T>>;

template <class T> bool same_bits(const Results<T>& x, const Results<T>& y) {
  for (size_t i = 0; i < x.size(); ++i)
    if (std::memcmp(x[i].get(), y[i].get(), sizeof(T) * size_t(x[i].count))) return false;
  return true;
}

template <class T> double largest_error(const Results<T>& x, const Results<T>& y) {
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    double difference = 0, norm = 1e-30;
    for (int64_t j = 0; j < x[i].count; ++j) {
      difference += std::pow(double(x[i].get()[j]) - double(y[i].get()[j]), 2);
      norm += std::pow(double(y[i].get()[j]), 2);
    }
    const double error = std::sqrt(difference / norm);
    if (!(error <= worst)) worst = error;  // a NaN counts as the worst
  }
  return worst;
}

// A leak for each of H neurons, from 0.1 to 1.
template <class T> Tensor<T> leaks(int64_t H) {
  Tensor<T> leak(H);
  for (int64_t i = 0; i < H; ++i) leak.get()[i] = T(1 - 0.9 * double(i) / double(H));
  return leak;
}

template <class T> constexpr aru::Scalar scalar = sizeof(T) == 4 ? aru::Scalar::float32 : aru::Scalar::float64;

struct Shape {
  int64_t T, B, H, G, tile;
};

template <class T>
Results<T> adaptive(const Shape& z, int64_t segment, int threads, bool recurrent, aru::Scalar computed = scalar<T>,
                    bool leaky = false) {
  const aru::Kernels& k = aru::kernels();
  const aru::SequenceSizes sizes{z.T, z.B, z.H, z.G, z.tile, segment};
  const int64_t rows = z.B * z.H, all = z.T * rows;
  const Tensor<T> xp(all, 1, 1), h0(rows, 2, 1), g0(rows * z.G, 3, 0.5), hh(z.H * z.H, 4, 1 / std::sqrt(double(z.H)));
  const Tensor<T> ag(z.G, 5, 1), gg(z.G * z.G, 6, 1 / std::sqrt(double(z.G))), bg(z.G, 7, 0.1), gc(2 * z.G, 8, 0.1);
  const Tensor<T> leak = leaks<T>(z.H);
  Tensor<T> bc(2);
  // With n near 0 or 1 - s above 1, sequences magnify rounding errors until instruction sets differ in every digit.
  bc.get()[0] = T(2), bc.get()[1] = T(0.25);
  Tensor<T> h(all), a(all), n(all), s(all), g(rows * z.G), kept(k.kept_elements(computed, sizes));
  const void* weight = recurrent ? hh.get() : nullptr;
  aru::AruForward f{};
  f.sizes = sizes;
  f.xp = xp.get(), f.h0 = h0.get(), f.g0 = g0.get(), f.weight_hh = weight;
  f.controller = {ag.get(), gg.get(), bg.get(), gc.get(), bc.get()};
  f.leak = leaky ? leak.get() : nullptr;
  f.n_floor = 1e-3;
  f.h = h.get(), f.a = a.get(), f.n = n.get(), f.s = s.get(), f.g_last = g.get(), f.kept = kept.get();
  f.threads = threads;
  k.aru_fwd(computed, f);

  const Tensor<T> d_h(all, 10, 1), d_a(all, 11, 1), d_g(rows * z.G, 12, 1);
  Tensor<T> d_xp(all), d_h0(rows), d_g0(rows * z.G), d_hh(z.H * z.H), d_ag(z.G), d_gg(z.G * z.G), d_bg(z.G);
  Tensor<T> d_gc(2 * z.G), d_bc(2), d_leak(z.H);
  aru::AruBackward b{};
  b.sizes = sizes;
  b.h0 = h0.get(), b.g0 = g0.get(), b.weight_hh = weight, b.controller = f.controller, b.n_floor = f.n_floor;
  b.h = h.get(), b.a = a.get(), b.n = n.get(), b.s = s.get(), b.kept = kept.get();
  b.d_h = d_h.get(), b.d_a = d_a.get(), b.d_n = d_h.get(), b.d_s = d_a.get(), b.d_h_last = d_a.get(),
  b.d_g_last = d_g.get();
  b.d_xp = d_xp.get(), b.d_h0 = d_h0.get(), b.d_g0 = d_g0.get(), b.d_weight_hh = d_hh.get();
  b.d_weight_ag = d_ag.get(), b.d_weight_gg = d_gg.get(), b.d_bias_g = d_bg.get(), b.d_weight_gc = d_gc.get();
  b.d_bias_c = d_bc.get();
  b.leak = f.leak, b.d_leak = leaky ? d_leak.get() : nullptr;
  b.threads = threads;
  k.aru_bwd(computed, b);

  Results<T> results;
  for (Tensor<T>* x : {&h, &g, &d_xp, &d_g0, &d_ag, &d_gg, &d_bg, &d_gc, &d_bc}) results.push_back(std::move(*x));
  if (recurrent)
    for (Tensor<T>* x : {&d_h0, &d_hh}) results.push_back(std::move(*x));
  if (leaky) results.push_back(std::move(d_leak));
  return results;
}

template <class T> Results<T> fixed(const Shape& z, int threads, bool leaky = false) {
  const aru::Kernels& k = aru::kernels();
  const aru::SequenceSizes sizes{z.T, z.B, z.H, 0, z.tile, 1};
  const int64_t rows = z.B * z.H, all = z.T * rows;
  const Tensor<T> xp(all, 1, 1), h0(rows, 2, 1), hh(z.H * z.H, 4, 1 / std::sqrt(double(z.H)));
  const Tensor<T> n(z.H, 5, 3), s(z.H, 6, 1), rates = leaks<T>(z.H), d_h(all, 10, 1), d_a(all, 11, 1);
  Tensor<T> h(all), a(all), d_xp(all), d_h0(rows), d_hh(z.H * z.H), d_n(z.H), d_s(z.H), d_leak(z.H);
  const void* leak = leaky ? rates.get() : nullptr;
  k.gamma_rnn_fwd(scalar<T>,
                  {sizes, xp.get(), h0.get(), hh.get(), n.get(), s.get(), leak, 1e-3, h.get(), a.get(), threads});
  k.gamma_rnn_bwd(scalar<T>, {sizes, h0.get(), hh.get(), n.get(), s.get(), leak, 1e-3, h.get(), a.get(), d_h.get(),
                              d_a.get(), d_a.get(), d_xp.get(), d_h0.get(), d_hh.get(), d_n.get(), d_s.get(),
                              leaky ? d_leak.get() : nullptr, threads});
  Results<T> results;
  for (Tensor<T>* x : {&h, &d_xp, &d_h0, &d_hh, &d_n, &d_s}) results.push_back(std::move(*x));
  if (leaky) results.push_back(std::move(d_leak));
  return results;
}

// (rows, columns), x transposed in memory, n per column, s one value.
template <class T> Results<T> elementwise(int64_t rows, int64_t columns, int threads) {
  const aru::Kernels& k = aru::kernels();
  const Tensor<T> x(rows * columns, 1, 2), n(columns, 2, 3), s(1, 3, 1), dy(rows * columns, 4, 1);
  Tensor<T> y(rows * columns), dx(rows * columns), dn(columns), ds(1);
  const aru::GammaShape shape{2, {rows, columns}, {1, rows}, {0, 1}, {0, 0}, {columns, 1}};
  k.gamma_fwd(scalar<T>, {shape, x.get(), n.get(), s.get(), y.get(), 1e-3, threads});
  const aru::GammaParameterGradient to_dn{dn.get(), columns, {0, 1}}, to_ds{ds.get(), 1, {0, 0}};
  k.gamma_bwd(scalar<T>, {shape, dy.get(), x.get(), n.get(), s.get(), dx.get(), to_dn, to_ds, 1e-3, threads});
  Results<T> results;
  for (Tensor<T>* r : {&y, &dx, &dn, &ds}) results.push_back(std::move(*r));
  return results;
}

template <class T> void run(const std::string& dtype, double tolerance) {
  const std::vector<Shape> shapes = {{1, 1, 1, 1, 1},
                                     {3, 2, 5, 4, 1},
                                     {4, 5, 7, 6, 2},
                                     {5, 3, 33, 50, 2},
                                     {18, 4, 9, 3, 3},
                                     {2, 7, 16, 16, 3},
                                     {3, 6, 12, 27, 4},
                                     // cut into 2 and 4 parts that a team of threads shares
                                     {3, 2, 38, 100, 1},
                                     {17, 1, 77, 110, 1}};
  std::vector<std::vector<Results<T>>> by_isa;
  for (const std::string& isa : aru::usable_isas()) {
    aru::select_isa(isa);
    std::vector<Results<T>> all;
    for (const Shape& z : shapes) {
      const std::string name = isa + " " + dtype + " T=" + std::to_string(z.T) + " H=" + std::to_string(z.H);
      Results<T> one = adaptive<T>(z, 1, 1, true);
      for (const int threads : {3, 5})
        expect(same_bits(one, adaptive<T>(z, 1, threads, true)), name + ": bits depend on the threads");
      for (const int64_t segment : {int64_t(2), int64_t(3), z.T + 1})
        expect(same_bits(one, adaptive<T>(z, segment, 4, true)), name + ": bits depend on the segment");
      all.push_back(std::move(one));
      all.push_back(adaptive<T>({1, z.B, z.H, z.G, z.tile}, 1, 2, false));
      Results<T> unit = fixed<T>(z, 1);
      expect(same_bits(unit, fixed<T>(z, 3)), name + ": static network: bits depend on the threads");
      all.push_back(std::move(unit));
      const auto leaky = [&](int64_t segment, int threads) {
        return adaptive<T>(z, segment, threads, true, scalar<T>, true);
      };
      one = leaky(1, 1);
      expect(same_bits(one, leaky(1, 3)), name + ": with a leak: bits depend on the threads");
      expect(same_bits(one, leaky(2, 4)), name + ": with a leak: bits depend on the segment");
      all.push_back(std::move(one));
      unit = fixed<T>(z, 1, true);
      expect(same_bits(unit, fixed<T>(z, 3, true)), name + ": static network, leak: bits depend on the threads");
      all.push_back(std::move(unit));
    }
    for (const Shape& z : {Shape{3, 1, 650, 0, 1}, Shape{18, 3, 501, 0, 2}})
      expect(same_bits(fixed<T>(z, 1), fixed<T>(z, 5)), isa + ": static network: bits depend on the team");
    Results<T> gamma = elementwise<T>(300, 257, 1);
    expect(same_bits(gamma, elementwise<T>(300, 257, 3)), isa + ": gamma: bits depend on the threads");
    all.push_back(std::move(gamma));
    by_isa.push_back(std::move(all));
  }
  for (size_t i = 1; i < by_isa.size(); ++i)
    for (size_t j = 0; j < by_isa[i].size(); ++j) {
      const double error = largest_error(by_isa[i][j], by_isa[0][j]);
      expect(error <= tolerance,
             dtype + " case " + std::to_string(j) + ": instruction sets differ by " + std::to_string(error));
    }
}

void run_bfloat16() {
  const auto work = [](const Shape& z, int64_t segment, int threads) {
    return adaptive<float>(z, segment, threads, true, aru::Scalar::bfloat16_products);
  };
  for (const Shape& z : {Shape{5, 3, 33, 50, 2}, Shape{18, 4, 9, 3, 3}, Shape{3, 1, 60, 90, 1}}) {
    std::vector<Results<float>> by_isa;
    for (const std::string& isa : aru::usable_isas()) {
      aru::select_isa(isa);
      const std::string name = isa + " bfloat16 G=" + std::to_string(z.G);
      by_isa.push_back(work(z, 1, 1));
      expect(same_bits(by_isa.back(), work(z, 1, 3)), name + ": bits depend on the threads");
      expect(same_bits(by_isa.back(), work(z, 2, 2)), name + ": bits depend on the segment");
      const double error = largest_error(by_isa.back(), by_isa[0]);
      expect(error <= 5e-2, name + ": differs from another instruction set by " + std::to_string(error));
    }
  }
}

void run_vectors() {
  size_t found = 0;
  for (const std::string& isa : aru::usable_isas())
    for (const VectorCheck& check : vector_checks())
      if (isa == check.isa) {
        const char* failure = check.run();
        expect(!failure, isa + ": " + (failure ? failure : ""));
        ++found;
      }
  expect(found == aru::usable_isas().size(), "an instruction set without a check of its vectors");
}

// The threads are kept from call to call, work at the same time, and do not start others.
void run_threads() {
  for (int round = 0; round < 200; ++round) {
    std::vector<int> count(7, 0);
    aru::parallel_for(7, 4, [&](int64_t i) {
      expect(aru::usable_threads(4) == 1, "threads inside threads");
      ++count[size_t(i)];
    });
    expect(count == std::vector<int>(7, 1), "a task left out or done twice");
  }
  expect(aru::usable_threads(4) == 4, "no threads after a call");
#ifndef _WIN32
  // In a child of fork the pool's threads are missing.
  const Results<float> here = adaptive<float>({6, 4, 20, 10, 2}, 2, 3, true);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) _exit(same_bits(here, adaptive<float>({6, 4, 20, 10, 2}, 2, 3, true)) ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  expect(status == 0, "a forked child fails or has other bits");
#endif
}

}  // namespace

int main() {
  run_vectors();
  run_threads();
  run<float>("float32", 1e-4);
  run_bfloat16();
  run<double>("float64", 1e-12);
  // An exception leaves the team of threads whole.
  for (const int threads : {1, 3}) {
    bool caught = false;
    try {
      aru::parallel_for(20, threads, [](int64_t i) {
        if (i == 5) throw std::runtime_error("5");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    expect(caught, "an exception got lost");
  }
  // Nor does it leave the rest of a team waiting.
  bool caught = false;
  try {
    aru::parallel_teams(2, 3, 6, [](int64_t i, const aru::Member& member) {
      if (i == 1 && member.index == member.size - 1) throw std::runtime_error("1");
      for (int round = 0; round < 50; ++round) member.wait();
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  expect(caught, "an exception in a team got lost");
  // Two callers at once.
  std::thread other([] { adaptive<float>({6, 4, 20, 10, 2}, 2, 2, true); });
  adaptive<float>({6, 4, 20, 10, 2}, 2, 2, true);
  other.join();
  aru::free_idle();
  std::printf("%d failed\n", failures);
  return failures != 0;
}
