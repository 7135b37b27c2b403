// The sequence forward: all T steps in one launch.  tiling.h says how the work is cut.
#pragma once

#include "controller.cuh"
#include "exchange.cuh"
#include "recurrent.cuh"

namespace aru {
namespace cuda {

// The controller's state stays in registers.
template <class K> ARU_DEVICE void sequence_forward(const Forward& p) {
  constexpr Form form = K::form;
  const Sizes z = p.sizes;
  const Tiling t = p.tiling;
  uint8_t* shared = shared_memory();
  uint4* weight = reinterpret_cast<uint4*>(shared + p.shape.weight_hh);
  float* sums = reinterpret_cast<float*>(shared + p.shape.sums);
  const auto exchange = Exchange<K::recurrent_form>::create(p, shared);
  pack_recurrent<K::recurrent_form, false>(p, weight, exchange.rank);
  ControllerOperands<K> controller{};
  if constexpr (K::adaptive) controller = ControllerOperands<K>::pack(p.controller, z.G, shared + p.shape.controller);
  exchange.open();

  const int lane = thread_index() & 31, quad = lane & 28, q = lane & 3;
  const bool working = warp_index() < p.shape.pairs;  // whether the warp has rows
  uint32_t* staging = reinterpret_cast<uint32_t*>(shared + p.shape.staging) + warp_index() * K::tiles * 128;
  const int first_i = exchange.rank * t.slice;
  const size_t BH = size_t(z.B) * z.H;
  const auto share = RecurrentShare::of(p.shape);
  const auto sums_of = [&](int v) { return sums + (v & 1) * p.shape.sum_floats; };
  int v = 0;  // vectors sent
  for (int tile = block_index() / t.blocks; tile * t.batch < z.B; tile += t.groups) {
    const int first_b = tile * t.batch;
    const Row own = Row::of(thread_index(), z, t, p.shape.rows, first_b, first_i);
    const bool valid = own.index >= 0;
    const int word = exchange.word_of(own.b, own.i), sum_at = own.b * p.shape.sum_stride + own.i;
    PairRows rows{};
    ControllerState<K> state[2] = {};
    ControllerProduct<K, 2> product;
    int slot = 0;
    Image image{};
    if constexpr (K::keeps_state) image = Image::of(z, t, p.shape.rows, first_b, first_i);
    // Groups of warps put the state to be kept into `staging`, and send it on after the next barrier: the fence before
    // that barrier waits for all stores of the thread.
    bool staged = false;
    const auto kept = [&] { return KeptState<form, void>::of(p.kept, slot, p.slot_bytes, image, z.G); };
    const auto keep = [&] {
      if constexpr (K::in_groups) {
        if (lane == 0) bulk_stores_read();
        sync_warp();
        kept().stage(staging, state);
        staged = true;
      } else {
        kept().store(0, state);
        ++slot;
      }
    };
    const auto store_staged = [&] {
      if (lane == 0 && image.quads() > 0) bulk_store(kept().image, staging, kept().bytes());
      ++slot;
      staged = false;
    };
    if constexpr (K::adaptive) {
      rows = PairRows::of(z, t, p.shape.rows, first_b, first_i);
      if (working) {
        ARU_UNROLL
        for (int m = 0; m < 2; ++m) {
          ARU_UNROLL
          for (int k = 0; k < K::k_tiles; ++k) {
            float4 g[2] = {};
            float left[4], right[4];
            ARU_UNROLL
            for (int high = 0; high < 2; ++high)
              if (rows.index(m, high) >= 0) g[high] = load_row<form>(p.g0, size_t(rows.index(m, high)), z.G, k);
            from_rows(g[0], g[1], left, right);
            state[m].set(k, left, right);
          }
        }
        if (K::keeps_state && p.kept) keep();
        product.start(controller, state);
      }
    }
    float n = 1, s = 0;
    if (!K::adaptive && valid) {
      n = p.n_given[first_i + own.i];
      s = p.s_given[first_i + own.i];
    }

    float xp = valid ? p.xp[own.index] : 0.f;
    int until_kept = p.segment;  // steps to the next state that is kept
    size_t at = size_t(own.index);
    ARU_ROLLED
    for (int step = 0; step < z.T; ++step, ++v, at += BH) {
      RecurrentWeights<K::recurrent_form, (K::tiles < 8 ? 5 : 2)> first_weights;  // as many as the registers hold
      first_weights.load_first(share, p.shape, weight);
      if (v > 0) exchange.receive(v);
      if (step == 0) {
        exchange.fill(v, p.h0, first_b, z.B, z.H);
        sync_block();
      }
      recurrent_product(share, t, p.shape, weight, exchange.buffer(v), sums_of(v), first_weights);
      if (staged) publish_to_groups();
      sync_block();
      if (staged) store_staged();
      if (!working) continue;

      const float a = xp + recurrent_sum(t, p.shape, sums_of(v), sum_at);
      if constexpr (K::adaptive) {
        const float both[2][2] = {{shuffle(a, quad), shuffle(a, quad + 1)},
                                  {shuffle(a, quad + 2), shuffle(a, quad + 3)}};
        product.finished();
        float ns[2][4];
        begin_read_out<K>(controller, ns);
        controller_finish<K, half_of_last(K::tiles)>(controller, both, product, state,
                                                     [&](int k) { read_out<K>(controller, state, k, ns); });
        n = q & 2 ? (q & 1 ? ns[1][2] : ns[1][0]) : (q & 1 ? ns[0][2] : ns[0][0]);
        s = q & 2 ? (q & 1 ? ns[1][3] : ns[1][1]) : (q & 1 ? ns[0][3] : ns[0][1]);
        n = controller.of_gc(n, controller.bias_n), s = controller.of_gc(s, controller.bias_s);
      }
      const float value = gamma_value<float, GammaFunctions<form>>(a, n, s, p.n_floor), h = valid ? value : 0.f;
      exchange.send(v + 1, own.inside, word, h);
      if (v > 0) exchange.received(v);

      // During the exchange: what is not urgent, and what the next step can do without h.  What runs asynchronously
      // comes first.
      if constexpr (K::in_groups) product.start(controller, state);
      if (valid) {
        p.h[at] = h;
        if (p.a) p.a[at] = a;
        if (p.n) p.n[at] = n;
        if (p.s) p.s[at] = s;
        if (step + 1 < z.T) xp = p.xp[at + BH];
        if (step + 2 < z.T) prefetch(p.xp + at + 2 * BH);
      }
      if constexpr (K::adaptive) {
        if (K::keeps_state && p.kept && --until_kept == 0) {
          until_kept = p.segment;
          if (step + 1 < z.T || p.segment == 1) keep();
        }
        if constexpr (!K::in_groups) product.start(controller, state);
      }
    }
    if (staged) {
      publish_to_groups();
      sync_warp();
      store_staged();
    }
    if constexpr (K::adaptive) {
      if (working) {
        ARU_UNROLL
        for (int neuron = 0; neuron < 4; ++neuron) {
          const int row = rows.index(neuron / 2, neuron % 2);
          ARU_UNROLL
          for (int n = 0; n < K::tiles; ++n)
            if (row >= 0) store_pair(p.g_last, size_t(row), z.G, n, unpacked(state[neuron / 2].to_keep(n, neuron % 2)));
        }
      }
    }
  }
  if constexpr (K::in_groups && K::keeps_state) {
    if (lane == 0) bulk_stores_read();
  }
  if (v > 0) exchange.receive(v);  // no block ends while others store to it
}

}  // namespace cuda
}  // namespace aru
