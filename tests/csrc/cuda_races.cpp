// Launches of the emulated kernels for ThreadSanitizer: both passes of small networks, by several tilings.  Values are
// checked elsewhere (tests/test_cuda_emulated.py); here only that nothing races.
#include <cstdio>
#include <random>
#include <vector>

#include "cuda/launch.h"
#include "cuda/prim.cuh"

using namespace aru::cuda;

namespace {

std::vector<float> some(size_t count, float scale) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(count);
  for (float& value : x) value = normal(generator);
  return x;
}

int failures = 0;

void expect_success(int error, const char* text) {
  if (!error) return;
  std::printf("FAILED: %s\n", text);
  ++failures;
}

// A forward pass and, if its form has one, the backward pass of it; with kept state both have one tiling.  G = 0: the
// static network.
void both_passes(Form form, const Sizes& z, int segment, const Tiling& forward, const Tiling& backward) {
  const size_t rows = size_t(z.B) * z.H, all = z.T * rows, state = rows * z.G;
  const size_t slot = size_t(kept_slot_bytes(z, form)) / sizeof(float);
  const char* text = "";
  const auto shape = [&](const Tiling& t, bool back) { return shape_of(t, form, column_tiles(back, z.G), back); };
  const auto exchange = [&](const Tiling& t, bool back) {
    return std::vector<uint32_t>(size_t(exchange_bytes(shape(t, back), t, form)) / 4 + 1);
  };
  const auto xp = some(all, 1), h0 = some(rows, 1), g0 = some(state, 0.5f), hh = some(size_t(z.H) * z.H, 0.2f);
  const auto ag = some(z.G, 1), gg = some(size_t(z.G) * z.G, 0.2f), bg = some(z.G, 0.1f), gc = some(2 * z.G, 0.1f);
  const auto bc = some(2, 1), n_given = some(z.H, 1), s_given = some(z.H, 1);
  std::vector<float> h(all), a(all), n(all), s(all), last(state);
  std::vector<float> kept((z.T + 1) * slot), recomputed(segment * slot);

  Forward f{};
  f.sizes = z, f.tiling = forward, f.shape = shape(forward, false);
  f.xp = xp.data(), f.h0 = h0.data(), f.g0 = g0.data(), f.weight_hh = hh.data();
  f.controller = {ag.data(), gg.data(), bg.data(), gc.data(), bc.data()};
  f.n_given = n_given.data(), f.s_given = s_given.data(), f.n_floor = 1e-3f;
  f.h = h.data(), f.a = a.data(), f.n = n.data(), f.s = s.data(), f.g_last = last.data();
  f.kept = z.G && keeps_state(form) ? kept.data() : nullptr, f.segment = segment;
  f.slot_bytes = kept_slot_bytes(z, form);
  auto words = exchange(forward, false);
  f.exchange = words.data();
  expect_success(aru_cuda_forward(0, form, &f, 0, &text), text);
  if (!keeps_state(form)) return;

  const auto d_h = some(all, 1), d_g = some(state, 1);
  std::vector<float> d_xp(all), d_h0(rows), d_g0(state);
  const SumsShape of = sums_shape(backward, form, column_tiles(true, z.G));
  std::vector<float> sums(size_t(of.parts) * of.rows * of.columns);
  Backward b{};
  b.sizes = z, b.tiling = backward, b.shape = shape(backward, true);
  b.weight_hh = hh.data(), b.controller = f.controller, b.n_given = f.n_given, b.s_given = f.s_given;
  b.n_floor = f.n_floor, b.a = f.a, b.n = f.n, b.s = f.s, b.kept = f.kept, b.segment = segment;
  b.recomputed = recomputed.data(), b.slot_bytes = f.slot_bytes;
  b.d_h = d_h.data(), b.d_a = d_h.data(), b.d_n = d_h.data(), b.d_s = d_h.data();
  b.d_h_last = d_h.data(), b.d_g_last = z.G ? d_g.data() : nullptr;
  b.d_xp = d_xp.data(), b.d_h0 = d_h0.data(), b.d_g0 = d_g0.data(), b.sums = sums.data();
  words = exchange(backward, true);
  b.exchange = words.data();
  expect_success(aru_cuda_backward(0, form, &b, 0, &text), text);
}

}  // namespace

int main() {
  const Form form = Form::ARU_FORM;
  for (int cluster : {1, 0}) {
    // one group that takes two batch tiles; two groups side by side, whose last block has few neurons; a block of more
    // rows than four warps have
    const int together = warps_together(form, 1, warp_groups);
    const Tiling one{cluster, 2, 12, 5, 4, 1, together}, two{cluster, 3, 8, 4, 4, 2, together};
    const Tiling large{cluster, 2, 20, 7, 8, 1, together};
    both_passes(form, {4, 7, 23, 11}, 1, one, one);
    both_passes(form, {5, 7, 23, 11}, 2, two, two);
    both_passes(form, {7, 7, 23, 11}, 3, one, one);
    both_passes(form, {3, 7, 39, 11}, 1, large, large);
    if (keeps_state(form)) both_passes(form, {4, 7, 23, 0}, 1, two, one);
  }
  std::printf("%d failed\n", failures);
  return failures != 0;
}
