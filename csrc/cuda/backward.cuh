// The sequence backward: all T steps in one launch.
//
// With V_t = [du_{t+1} | dn_t ds_t] and A_t = [g_t | a_{t+1} 1] (g_t: after step t) the controller's gradients are
//   dg_t = V_t [W_gg; W_gc],   du_t = dg_t (1 - g_t^2),   da_t = dh_t dgamma/da + <w_ag, du_t>
//   sum_t V_t^T A_t = [dW_gg dw_ag db_g; dW_gc . db_c]
// where dn, ds and a, 1 take the last two columns that the kernel is compiled for.  The loop ends with t = -1, which
// gives the gradients of h0 and g0.
#pragma once

#include "exchange.cuh"
#include "own_sums.cuh"
#include "recurrent.cuh"
#include "shared_sums.cuh"

namespace aru {
namespace cuda {

template <class K> using WeightSums = std::conditional_t<K::shares_sums, SharedSums<K>, OwnSums<K>>;

// The values of a step that the gradients of a lane's row need: loaded before the step's dh is known.
struct Upstream {
  float a = 0, n = 1, s = 0, d_h = 0;

  // n, s: of the static network.
  template <bool adaptive> ARU_DEVICE Upstream of(const Backward& p, int step, int row, float n, float s) {
    const size_t BH = size_t(p.sizes.B) * p.sizes.H, at = step * BH + row;
    Upstream u;
    u.a = p.a[at];
    u.n = adaptive ? p.n[at] : n;
    u.s = adaptive ? p.s[at] : s;
    if (p.d_h) u.d_h = p.d_h[at];
    if (step > 0) {
      prefetch(p.a + at - BH);
      if (p.d_h) prefetch(p.d_h + at - BH);
      if (adaptive) {
        prefetch(p.n + at - BH);
        prefetch(p.s + at - BH);
      }
    }
    return u;
  }
};

ARU_DEVICE float value_or_zero(const float* gradient, size_t at) { return gradient ? gradient[at] : 0.f; }

template <class K> ARU_DEVICE void sequence_backward(const Backward& p) {
  constexpr Form form = K::form;
  const Sizes z = p.sizes;
  const Tiling t = p.tiling;
  uint8_t* shared = shared_memory();
  uint4* weight = reinterpret_cast<uint4*>(shared + p.shape.weight_hh);
  float* partial = reinterpret_cast<float*>(shared + p.shape.sums);
  auto controller = ControllerBackward<K>::at(p, shared);
  const auto exchange = Exchange<form>::create(p, shared);
  pack_recurrent<form, true>(p, weight, exchange.rank);
  WeightSums<K> weight_sums{};
  if constexpr (K::adaptive) {
    controller.forward = ControllerOperands<K>::pack(p.controller, z.G, shared + p.shape.controller);
    controller.pack_weights();
    weight_sums = WeightSums<K>::create(p);
  }
  exchange.open();

  const bool working = warp_index() < p.shape.pairs;  // whether the warp has rows
  const int first_i = exchange.rank * t.slice;
  const size_t BH = size_t(z.B) * z.H;
  const auto share = RecurrentShare::of(p.shape);
  float sum_n = 0, sum_s = 0;  // static network
  const auto partial_of = [&](int v) { return partial + (v & 1) * p.shape.sum_floats; };
  int v = 0;
  for (int tile = block_index() / t.blocks; tile * t.batch < z.B; tile += t.groups) {
    const int first_b = tile * t.batch;
    const Row own = Row::of(thread_index(), z, t, p.shape.rows, first_b, first_i);
    const bool valid = own.index >= 0;
    const int word = exchange.word_of(own.b, own.i), sum_at = own.b * p.shape.sum_stride + own.i;
    const auto rows = [&] { return PairRows::of(z, t, p.shape.rows, first_b, first_i); };  // rarely needed
    const Image image = Image::of(z, t, p.shape.rows, first_b, first_i);
    float n = 1, s = 0, a_next = 0;
    if constexpr (K::adaptive) {
      weight_sums.begin_tile(working);
    } else if (valid) {
      n = p.n_given[first_i + own.i];
      s = p.s_given[first_i + own.i];
    }
    StepCursor cursor = StepCursor::last(p);
    const auto upstream = [&] {
      const bool exists = working && valid && cursor.step >= 0;
      return exists ? Upstream::of<K::adaptive>(p, cursor.step, own.index, n, s) : Upstream();
    };
    const auto fetch = [&](int v) {
      if constexpr (K::shares_sums) {
        if (!(K::sums_in_groups && cursor.recomputed_last())) weight_sums.fetch(cursor.state<form>(p, image), image, v);
      }
    };
    ARU_ROLLED
    for (; cursor.step >= -1; ++v) {
      const Upstream up = upstream();  // before what takes long
      if constexpr (K::adaptive) {
        if (working && cursor.opens_segment(p)) {
          int group = 0;
          uint32_t* last = nullptr;
          if constexpr (K::shares_sums) {
            group = weight_sums.part;
            last = weight_sums.own_right(cursor.is_last(p) ? v : v + 1);
          }
          recompute<K>(controller, cursor, image, rows(), group, last);
        }
        if (working && cursor.is_last(p)) fetch(v);
      }
      const GammaDerivatives<float> by = gamma_derivatives<float, GammaFunctions<form>>(up.a, up.n, up.s, p.n_floor);
      RecurrentWeights<form, (K::tiles < 9 ? 3 : 2)> first_weights;
      first_weights.load_first(share, p.shape, weight);
      if (v > 0) exchange.receive(v);
      if (cursor.is_last(p)) {
        exchange.fill(v, nullptr, first_b, z.B, z.H);
        sync_block();
      }
      recurrent_product(share, t, p.shape, weight, exchange.buffer(v), partial_of(v), first_weights);
      if constexpr (K::adaptive) weight_sums.finished();
      if constexpr (K::shares_sums) weight_sums.fetched();
      sync_block();

      const bool inner = valid && cursor.step >= 0;
      if (working) {
        const float dh = recurrent_sum(t, p.shape, partial_of(v), sum_at);
        const float of_last = inner && cursor.is_last(p) ? value_or_zero(p.d_h_last, own.index) : 0.f;
        const float all_dh = dh + up.d_h + of_last;
        const size_t at = cursor.step * BH + own.index;
        const float dn = inner ? all_dh * by.dn + value_or_zero(p.d_n, at) : 0.f;
        const float ds = inner ? all_dh * by.ds + value_or_zero(p.d_s, at) : 0.f;
        float da = inner ? all_dh * by.dx + value_or_zero(p.d_a, at) : 0.f;
        if (valid && cursor.step < 0) p.d_h0[own.index] = dh;
        if constexpr (!K::adaptive) {
          sum_n += dn;
          sum_s += ds;
        } else {
          const BackwardStep<decltype(rows)> step{cursor, v, image, rows, dn, ds, a_next, da};
          if (cursor.step < 0 || (cursor.is_last(p) && p.d_g_last)) {
            weight_sums.park(p);  // else this rare code would take registers from all other steps
            da = weight_sums.template step<true>(controller, step);
            weight_sums.take_back(p);
          } else {
            da = weight_sums.template step<false>(controller, step);
          }
        }
        a_next = up.a;
        exchange.send(v + 1, own.inside, word, inner ? da : 0.f);
        if (v > 0) exchange.received(v);
        if (inner) p.d_xp[at] = da;
      }
      // During the exchange: the next step's state, and the sums.
      cursor.back(p);
      if constexpr (K::shares_sums) {
        weight_sums.share(p, v);
        if (working && cursor.step >= -1) fetch(v + 1);
      }
    }
  }
  if (v > 0) exchange.receive(v);  // no block ends while others store to it

  if constexpr (K::adaptive) {
    weight_sums.finish(p);
  } else if (thread_index() < p.shape.rows) {
    const int b = thread_index() / t.slice, i = thread_index() % t.slice, columns = t.blocks * t.slice;
    float* sums = p.sums + size_t(block_index() / t.blocks * t.batch + b) * 2 * columns + first_i + i;
    sums[0] = sum_n;
    sums[columns] = sum_s;
  }
}

}  // namespace cuda
}  // namespace aru
