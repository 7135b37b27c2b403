// The sequence backward: all T steps in one launch.
//
// With V_t = [du_{t+1} | dn_t ds_t] and A_t = [g_t | a_{t+1} 1] (g_t: after step t) the controller's gradients are
//   dg_t = V_t [W_gg; W_gc],   du_t = dg_t (1 - g_t^2),   da_t = dh_t dgamma/da + <w_ag, du_t>
//   sum_t V_t^T A_t = [dW_gg dw_ag db_g; dW_gc . db_c]
// where dn, ds and a, 1 take the last two of the columns that the kernel is compiled for (weight_sums.cuh).  The loop
// runs on to t = -1, which gives the gradients of h0 and g0.
#pragma once

#include "exchange.cuh"
#include "recurrent.cuh"
#include "weight_sums.cuh"

namespace aru {
namespace cuda {

// g after the steps of the place's segment, from the state kept before it, for this warp's rows.  Where groups of warps
// make the sums the last one goes to `last`, which no product of the group reads after the first here.
template <Form form, int tiles>
ARU_DEVICE void recompute(const Backward& p, const ControllerOperands<form, tiles>& controller, const StepPlace& place,
                          const Image& image, const PairRows& rows, int group, uint32_t* last) {
  constexpr bool in_groups = ControllerOperands<form, tiles>::in_groups;
  const size_t BH = size_t(p.sizes.B) * p.sizes.H;
  const int steps = place.again, segment = place.segment;
  const auto kept_before = [&](int which) {
    return KeptState<form, const void>::of(p.kept, which, p.slot_bytes, image, p.sizes.G);
  };
  if (segment > 0) {  // what the next call wants
    kept_before(segment - 1).prefetch_all();
    if (rows.count > 0)
      for (int step = 0; step < p.segment; ++step)
        prefetch(p.a + (size_t(segment - 1) * p.segment + step) * BH + rows.first);
  }
  const auto kept = kept_before(segment);
  ARU_ROLLED
  for (int m = 0; m < 2; ++m) {  // one tile at a time: two would spill
    const int row[2] = {rows.index(m, 0), rows.index(m, 1)};
    const float* a_at = p.a + size_t(segment) * p.segment * BH;
    float next_a[2];
    ControllerState<form, tiles> state[1];
    KeptPair<form> g[2][tiles];
    ARU_UNROLL
    for (int high = 0; high < 2; ++high) {
      next_a[high] = row[high] >= 0 ? a_at[row[high]] : 0.f;
      kept.load(2 * m + high, g[high]);
    }
    state[0].set_kept(g);
    ARU_ROLLED
    for (int step = 0; step < steps; ++step) {
      const float a[1][2] = {{next_a[0], next_a[1]}};
      a_at += BH;
      ARU_UNROLL
      for (int high = 0; high < 2; ++high)
        if (row[high] >= 0 && step + 1 < steps) next_a[high] = a_at[row[high]];
      const auto to = KeptState<form, void>::of(p.recomputed, step, p.slot_bytes, image, p.sizes.G);
      if constexpr (ControllerState<form, tiles>::packed && !in_groups) {
        // a column tile at a time takes fewer registers
        const auto operands = StateOperands<form, tiles, 1>::of(state);
        const auto product = [&](int j, float (&c)[2][1][4]) { operands.multiplied(controller, j, c); };
        controller_finish<form, tiles, 1>(controller, a, product, state, [](int) {});
        to.store(2 * m, state);
      } else {
        ControllerProduct<form, tiles, 1> product;
        product.start(controller, state);
        product.finished();
        controller_finish<form, tiles, 1>(controller, a, product, state, [](int) {});
        if constexpr (sums_in_groups(form, tiles)) {
          if (m == 0 && step == 0) sync_group(group);
          if (step == steps - 1) {
            put_rows<form>(last + 2 * m * tiles * 32 + (thread_index() & 31), tiles * 32, 32, to.tiles, state);
            continue;
          }
        }
        to.store(2 * m, state);
      }
    }
  }
}

// What an element's gradients of a step are made of, all but the gradient of h that comes from the next step, and those
// that a trace or the last state brings (where_given).
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

ARU_DEVICE float where_given(const float* gradient, size_t at) { return gradient ? gradient[at] : 0.f; }

template <Form form, int tiles> ARU_DEVICE void sequence_backward(const Backward& p) {
  constexpr bool adaptive = tiles > 0, shared_sums = shares_sums(form, tiles);
  constexpr int some_tiles = adaptive ? tiles : 1;
  const Sizes z = p.sizes;
  const Tiling t = p.tiling;
  uint8_t* shared = shared_memory();
  uint4* weight = reinterpret_cast<uint4*>(shared + p.shape.weight_hh);
  float* partial = reinterpret_cast<float*>(shared + p.shape.sums);
  uint2* step_weights = reinterpret_cast<uint2*>(shared + p.shape.step_weights);
  const auto exchange = Exchange<form>::create(p, shared);
  pack_recurrent<form, true>(p, weight, exchange.rank);
  ControllerOperands<form, tiles> controller{};
  WeightSums<form, some_tiles> weight_sums{};
  if constexpr (adaptive) {
    controller = ControllerOperands<form, tiles>::pack(p.controller, z.G, shared + p.shape.controller);
    pack_step_weights<form, tiles>(p, step_weights);
    weight_sums = WeightSums<form, some_tiles>::create(p);
  }
  exchange.open();

  const bool working = warp_index() < p.shape.pairs;  // the warp has rows
  const int first_i = exchange.rank * t.slice;
  const size_t BH = size_t(z.B) * z.H;
  const auto share = RecurrentShare::of(p.shape);
  float sum_n = 0, sum_s = 0;  // static network
  const auto partial_of = [&](int v) { return partial + (v & 1) * p.shape.sum_floats; };
  int v = 0;
  for (int tile = block_index() / t.blocks; tile * t.batch < z.B; tile += t.groups) {
    const int first_b = tile * t.batch;
    const Row own = Row::of(thread_index(), z, t, p.shape.rows, first_b, first_i);
    const bool some = own.index >= 0;
    const int to = exchange.place(own.b, own.i), sum_at = own.b * p.shape.sum_stride + own.i;
    const auto rows = [&] { return PairRows::of(z, t, p.shape.rows, first_b, first_i); };  // seldom needed
    const Image image = Image::of(z, t, p.shape.rows, first_b, first_i);
    float n = 1, s = 0, a_next = 0;
    if constexpr (adaptive) {
      weight_sums.begin_tile(working);
    } else if (some) {
      n = p.n_given[first_i + own.i];
      s = p.s_given[first_i + own.i];
    }
    StepPlace place = StepPlace::last(p);
    const auto upstream = [&] {
      const bool there = working && some && place.step >= 0;
      return there ? Upstream::of<adaptive>(p, place.step, own.index, n, s) : Upstream();
    };
    const auto fetch = [&](int v) {
      if constexpr (shared_sums) {
        if (!(sums_in_groups(form, tiles) && place.computed_last()))
          weight_sums.fetch(place.kept<form>(p, image), image, v);
      }
    };
    ARU_ROLLED
    for (; place.step >= -1; ++v) {
      const Upstream up = upstream();  // before what takes long
      if constexpr (adaptive) {
        if (working && place.opens_segment(p)) {
          int group = 0;
          uint32_t* last = nullptr;
          if constexpr (shared_sums) {
            group = weight_sums.part;
            last = weight_sums.own_right(place.is_last(p) ? v : v + 1);
          }
          recompute<form, tiles>(p, controller, place, image, rows(), group, last);
        }
        if (working && place.is_last(p)) fetch(v);
      }
      const GammaDerivatives<float> by = gamma_derivatives<float, GammaFunctions<form>>(up.a, up.n, up.s, p.n_floor);
      RecurrentWeights<form, (tiles < 9 ? 3 : 2)> first_weights;
      first_weights.load_first(share, p.shape, weight);
      if (v > 0) exchange.receive(v);
      if (place.is_last(p)) {
        exchange.fill(v, nullptr, first_b, z.B, z.H);
        sync_block();
      }
      recurrent_product(share, t, p.shape, weight, exchange.buffer(v), partial_of(v), first_weights);
      if constexpr (adaptive) weight_sums.finished();
      if constexpr (shared_sums) weight_sums.fetched();
      sync_block();

      const bool inner = some && place.step >= 0;
      if (working) {
        const float dh = recurrent_sum(t, p.shape, partial_of(v), sum_at);
        const float of_last = inner && place.is_last(p) ? where_given(p.d_h_last, own.index) : 0.f;
        const float all_dh = dh + up.d_h + of_last;
        const size_t at = place.step * BH + own.index;
        const float dn = inner ? all_dh * by.dn + where_given(p.d_n, at) : 0.f;
        const float ds = inner ? all_dh * by.ds + where_given(p.d_s, at) : 0.f;
        float da = inner ? all_dh * by.dx + where_given(p.d_a, at) : 0.f;
        if (some && place.step < 0) p.d_h0[own.index] = dh;
        if constexpr (!adaptive) {
          sum_n += dn;
          sum_s += ds;
        } else if (place.step < 0 || (place.is_last(p) && p.d_g_last)) {
          weight_sums.park(p);  // else this seldom code would take registers from the other
          da = weight_sums.template step<true>(p, controller, step_weights, place, v, image, rows, dn, ds, a_next, da);
          weight_sums.take_back(p);
        } else {
          da = weight_sums.template step<false>(p, controller, step_weights, place, v, image, rows, dn, ds, a_next, da);
        }
        a_next = up.a;
        exchange.send(v + 1, own.inside, to, inner ? da : 0.f);
        if (v > 0) exchange.received(v);
        if (inner) p.d_xp[at] = da;
      }
      // While da is under way: the next step's state; the sums.
      place.back(p);
      if constexpr (shared_sums) {
        weight_sums.share(p, v);
        if (working && place.step >= -1) fetch(v + 1);
      }
    }
  }
  if (v > 0) exchange.receive(v);  // no block ends while others store to it

  if constexpr (adaptive) {
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
