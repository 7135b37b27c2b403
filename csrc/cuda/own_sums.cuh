// The sums of the controller's weight gradients V^T A where each warp has those of its own rows, in registers.  du
// stays in shared memory between steps.
#pragma once

#include "controller_backward.cuh"

namespace aru {
namespace cuda {

template <class K> struct OwnSums {
  static_assert(K::tiles % 2 == 1, "column tiles are taken in pairs, the last by itself");
  static constexpr Form form = K::form;
  static constexpr int tiles = K::tiles, k_tiles = K::k_tiles, words = K::words;
  // Steps that the matrix unit, which rounds towards zero, adds up before the sums go to the total.
  static constexpr int chunk = 16;
  float4* du;  // of the lane: [row tile][column tile][32 lanes]
  float sums[k_tiles][tiles][4];
  float* total;  // of the lane, in device memory
  int steps = 0;
  bool has_total = false;

  ARU_DEVICE OwnSums create(const Backward& p) {
    const int lane = thread_index() & 31, warp = warp_index();
    OwnSums o{};
    o.du = reinterpret_cast<float4*>(shared_memory() + p.shape.carry) + warp * 2 * tiles * 32 + lane;
    o.total = p.sums +
              (size_t(block_index()) * p.tiling.warps + warp) * gradient_rows(tiles) * gradient_columns(tiles) +
              lane / 4 * gradient_columns(tiles) + 2 * (lane & 3);
    return o;
  }
  ARU_METHOD void begin_tile(bool working) {
    if (!working) return;
    ARU_UNROLL
    for (int j = 0; j < 2 * tiles; ++j) du[j * 32] = make_float4(0, 0, 0, 0);
  }

  // A step of the warp's rows: du from V and its sums; returns da with the controller's share.
  template <bool at_end, class Rows>
  ARU_METHOD float step(const ControllerBackward<K>& controller, const BackwardStep<Rows>& s) {
    const int lane = thread_index() & 31, quad = lane & 28, q = lane & 3;
    const auto state = s.cursor.template state<form>(controller.p, s.image);
    float da = s.da;
    ARU_ROLLED
    for (int m = 0; m < 2; ++m) {
      const int low = quad + 2 * m, high = low + 1;
      // The last two columns of V and of A, in rows r and r + 8.
      const float last[2][4] = {{shuffle(s.dn, low), shuffle(s.ds, low), shuffle(s.dn, high), shuffle(s.ds, high)},
                                {shuffle(s.a_next, low), 1.f, shuffle(s.a_next, high), 1.f}};
      float4* own = du + m * tiles * 32;
      if (q == 3) own[(tiles - 1) * 32] = make_float4(last[0][0], last[0][1], last[0][2], last[0][3]);
      float g[2 * k_tiles][4];
      ARU_UNROLL
      for (int n = 0; n < tiles; ++n) {
        float2 pair[2] = {};
        ARU_UNROLL
        for (int half = 0; half < 2; ++half)  // branches: all loads side by side would take too many registers
          if (n < state.tiles) pair[half] = state.pair(2 * m + half, n);
        g[n][0] = pair[0].x, g[n][1] = pair[0].y, g[n][2] = pair[1].x, g[n][3] = pair[1].y;
      }
      uint32_t v[1][k_tiles][4][words];
      add_sums(own, g, last[1], v);
      if constexpr (form == Form::split) {  // reads the three words of a pair again, which saves registers
        sync_warp();
        ARU_UNROLL
        for (int k = 0; k < k_tiles; ++k) load_v(own, k, v[0][k]);
      }
      da += next_du<at_end>(controller, s, own, m, g, v);
    }
    if (++steps == chunk) flush();
    return da;
  }

  // Adds the sums to the total, in float32 that rounds to nearest.
  ARU_METHOD void flush() {
    ARU_UNROLL
    for (int i = 0; i < k_tiles; ++i) {
      ARU_UNROLL
      for (int j = 0; j < tiles; ++j) {
        ARU_UNROLL
        for (int e = 0; e < 4; ++e) {
          float* to = total + (i * 16 + e / 2 * 8) * gradient_columns(tiles) + j * 8 + (e & 1);
          *to = has_total ? *to + sums[i][j][e] : sums[i][j][e];
          sums[i][j][e] = 0;
        }
      }
    }
    steps = 0;
    has_total = true;
  }
  ARU_METHOD void finished() {}
  ARU_METHOD void park(const Backward&) const {}
  ARU_METHOD void take_back(const Backward&) {}
  ARU_METHOD void finish(const Backward&) {
    if (steps || !has_total) flush();
  }

 private:
  // sums += V^T A of a row tile; leaves V in `v`.
  ARU_METHOD void add_sums(const float4* own, const float (&g)[2 * k_tiles][4], const float (&last)[4],
                           uint32_t (&v)[1][k_tiles][4][words]) {
    uint32_t a[tiles][2][words];  // pairs of an accumulator, transposed, are pairs of a B operand
    ARU_UNROLL
    for (int n = 0; n < tiles; ++n) {
      ARU_UNROLL
      for (int half = 0; half < 2; ++half) {
        const bool ends = n == tiles - 1 && (thread_index() & 3) == 3;
        pack<form>(ends ? last[2 * half] : g[n][2 * half], ends ? last[2 * half + 1] : g[n][2 * half + 1], a[n][half]);
        transpose_pairs<form>(a[n][half]);
      }
    }
    ARU_UNROLL
    for (int i = 0; i < k_tiles; ++i) {
      uint32_t vt[4][words];
      load_v(own, i, v[0][i]);
      transposed_operand<form>(v[0][i], K::whole(i), vt);
      multiply<form>(sums[i], vt, a);
    }
  }
  // du of a row tile for the next step; returns the controller's share of da.
  template <bool at_end, class Rows>
  ARU_METHOD float next_du(const ControllerBackward<K>& controller, const BackwardStep<Rows>& s, float4* own, int m,
                           const float (&g)[2 * k_tiles][4], const uint32_t (&v)[1][k_tiles][4][words]) const {
    float through_a[2] = {0, 0};
    const auto column_tile = [&](int n, float (&c)[4]) {
      PairRows ends{};
      if constexpr (at_end) ends = s.rows();
      controller.template through_tanh<at_end>(s.cursor.step, ends, m, n, g[n], c, through_a);
      own[n * 32] = make_float4(c[0], c[1], c[2], c[3]);
    };
    ARU_UNROLL
    for (int n = 0; n + 1 < tiles; n += 2) {
      float c[2][1][4] = {};
      controller.add_product(n, v, c);
      column_tile(n, c[0][0]);
      column_tile(n + 1, c[1][0]);
    }
    float c[1][1][4] = {};
    controller.add_product(tiles - 1, v, c);
    column_tile(tiles - 1, c[0][0]);
    return own_share(through_a, m);
  }
  // One k tile of V, as an operand.
  ARU_DEVICE void load_v(const float4* own, int k, uint32_t (&v)[4][words]) {
    const float4 x = own[2 * k * 32], y = K::whole(k) ? own[(2 * k + 1) * 32] : make_float4(0, 0, 0, 0);
    const float left[4] = {x.x, x.y, x.z, x.w}, right[4] = {y.x, y.y, y.z, y.w};
    operand_of<form>(left, right, v);
  }
};

}  // namespace cuda
}  // namespace aru
