// The sequence forward: all T steps in one launch.  See sequence.h for how the work is cut.
#pragma once

#include "controller.cuh"
#include "exchange.cuh"
#include "recurrent.cuh"

namespace aru {
namespace cuda {

// tiles: column tiles of the controller's state, which stays in registers; 0 for the static network.
template <int parts, int tiles> ARU_DEVICE void sequence_forward(const Forward& p) {
  const Sizes z = p.sizes;
  const Tiling t = p.tiling;
  uint8_t* shared = shared_memory();
  uint4* weight = reinterpret_cast<uint4*>(shared + p.shape.weight_hh);
  float* sums = reinterpret_cast<float*>(shared + p.shape.sums);
  const auto exchange = Exchange<parts>::create(p, shared);
  pack_recurrent<parts, false>(p, weight, exchange.rank);
  ControllerOperands<parts, tiles> controller{};
  if constexpr (tiles > 0)
    controller = ControllerOperands<parts, tiles>::pack(p.controller, z.G, shared + p.shape.controller);
  exchange.open();

  const int lane = thread_index() & 31, quad = lane & 28, q = lane & 3, warp = thread_index() / 32;
  const int first_i = exchange.rank * t.slice;
  const size_t BH = size_t(z.B) * z.H;
  int v = 0;  // vectors sent
  for (int tile = block_index() / t.blocks; tile * t.batch < z.B; tile += t.groups) {
    const int first_b = tile * t.batch;
    const Row own = Row::of(warp * 32 + lane, z, t, p.shape.rows, first_b, first_i);
    int rows[2][2];  // [tile of the pair][half]: Row::index
    float g[2][tiles > 0 ? tiles : 1][4] = {};
    if constexpr (tiles > 0) {
      ARU_UNROLL
      for (int m = 0; m < 2; ++m) {
        ARU_UNROLL
        for (int high = 0; high < 2; ++high) {
          const int row = Row::of(warp * 32 + quad + 2 * m + high, z, t, p.shape.rows, first_b, first_i).index;
          rows[m][high] = row;
          if (row >= 0)
            for_columns(z.G, high, g[m], [&](int column, float& x) { x = p.g0[size_t(row) * z.G + column]; });
        }
      }
    }
    const bool some = own.index >= 0;
    float n = 1, s = 0;
    if (tiles == 0 && some) {
      n = p.n_given[first_i + own.i];
      s = p.s_given[first_i + own.i];
    }
    const auto keep = [&](int slot) {
      if constexpr (tiles > 0) {
        ARU_UNROLL
        for (int m = 0; m < 2; ++m) {
          ARU_UNROLL
          for (int high = 0; high < 2; ++high)
            if (rows[m][high] >= 0) store_state(p.kept, p.half, slot * BH + rows[m][high], z.G, high, g[m]);
        }
      }
    };

    float xp = some ? p.xp[own.index] : 0.f;
    int until_kept = 0, slot = 0;
    ARU_ROLLED
    for (int step = 0; step < z.T; ++step, ++v) {
      if (p.kept && until_kept-- == 0) {
        keep(slot++);
        until_kept = p.segment - 1;
      }
      if (v > 0) exchange.receive(v);
      if (step == 0) {
        exchange.fill(v, p.h0, first_b, z.B, z.H);
        sync_block();
      }
      recurrent_product<parts>(t, p.shape, weight, exchange.buffer(v), sums);
      sync_block();
      if (v > 0) exchange.received(v);

      const float a = xp + recurrent_sum(t, p.shape, sums, own.b, own.i);
      const size_t at = step * BH + own.index;
      if (some && step + 1 < z.T) xp = p.xp[at + BH];
      if constexpr (tiles > 0) {
        ARU_UNROLL
        for (int m = 0; m < 2; ++m) {
          const float both[2] = {shuffle(a, quad + 2 * m), shuffle(a, quad + 2 * m + 1)};
          float ns[4];
          controller_step<parts, tiles>(controller, both, g[m], ns);
          if (q / 2 == m) {
            n = ns[2 * (q & 1)];
            s = ns[2 * (q & 1) + 1];
          }
        }
      }
      float h = 0;
      if (some) {
        h = gamma_value<float>(a, n, s, p.n_floor);
        p.h[at] = h;
        if (p.a) p.a[at] = a;
        if (p.n) p.n[at] = n;
        if (p.s) p.s[at] = s;
      }
      exchange.send(v + 1, own.inside, own.b, own.i, h);
    }
    if constexpr (tiles > 0) {
      if (p.kept && p.segment == 1) keep(slot);
      ARU_UNROLL
      for (int m = 0; m < 2; ++m) {
        ARU_UNROLL
        for (int high = 0; high < 2; ++high) {
          const int row = rows[m][high];
          if (row >= 0)
            for_columns(z.G, high, g[m], [&](int column, float& x) { p.g_last[size_t(row) * z.G + column] = x; });
        }
      }
    }
  }
  if (v > 0) exchange.receive(v);  // no block ends while others store to it
}

}  // namespace cuda
}  // namespace aru
