// The sequence backward: all T steps in one launch.
//
// With V_t = [du_{t+1} | dn_t ds_t] and A_t = [g_t | a_{t+1} 1] (g_t: after step t) the controller's gradients are
//   dg_t = V_t [W_gg; W_gc],   du_t = dg_t (1 - g_t^2),   da_t = dh_t dgamma/da + <w_ag, du_t>
//   sum_t V_t^T A_t = [dW_gg dw_ag db_g; dW_gc . db_c]
// where dn, ds and a, 1 take the last two of the columns that the kernel is compiled for.  The sum over t stays in each
// warp's registers.  The loop runs on to t = -1, which gives the gradients of h0 and g0.
#pragma once

#include "controller.cuh"
#include "exchange.cuh"
#include "recurrent.cuh"

namespace aru {
namespace cuda {

// sum[i][j] += V^T A over 16 rows; V comes as operands_of() gives it.
template <Form form, int tiles>
ARU_DEVICE void add_outer_products(const uint32_t (&v)[(tiles + 1) / 2][4][words_of(form)],
                                   const float (&a)[round_up(tiles, 2)][4],
                                   float (&sum)[(tiles + 1) / 2][tiles][4]) {
  // A lane's pairs of an A operand, transposed, are pairs of the transposed matrix's operand; those of an accumulator
  // are pairs of a B operand.
  uint32_t vt[(tiles + 1) / 2][4][words_of(form)];
  ARU_UNROLL
  for (int i = 0; i < (tiles + 1) / 2; ++i) {
    ARU_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int transposed = j % 2 * 2 + j / 2;
      ARU_UNROLL
      for (int p = 0; p < words_of(form); ++p) vt[i][j][p] = v[i][transposed][p];
      if (2 * i + j % 2 < tiles) transpose_pairs<form>(vt[i][j]);
    }
  }
  ARU_UNROLL
  for (int j = 0; j < tiles; ++j) {
    uint32_t b[2][words_of(form)];
    ARU_UNROLL
    for (int half = 0; half < 2; ++half) {
      pack<form>(a[j][2 * half], a[j][2 * half + 1], b[half]);
      transpose_pairs<form>(b[half]);
    }
    ARU_UNROLL
    for (int i = 0; i < (tiles + 1) / 2; ++i) multiply<form>(sum[i][j], vt[i], b);
  }
}

// g, and n and s, after each step of the segment, from the state kept before it, for this warp's rows.
template <Form form, int tiles>
ARU_DEVICE void recompute(const Backward& p, const ControllerOperands<form, tiles>& controller, int segment, int first_b,
                          int first_i) {
  constexpr int at_once = 1;  // row tiles; two would spill the weight gradients
  const Sizes z = p.sizes;
  const size_t BH = size_t(z.B) * z.H;
  const int lane = thread_index() & 31, first = segment * p.segment;
  const int steps = z.T - first < p.segment ? z.T - first : p.segment;
  ARU_ROLLED
  for (int pair = thread_index() / 32; pair < p.shape.pairs; pair += p.tiling.warps) {
    ARU_ROLLED
    for (int tile = 0; tile < 2; tile += at_once) {
      int rows[at_once][2];
      ControllerState<form, tiles> state[at_once];
      ARU_UNROLL
      for (int m = 0; m < at_once; ++m) {
        ARU_UNROLL
        for (int high = 0; high < 2; ++high) {
          const int e = pair * 32 + (lane & 28) + 2 * (tile + m) + high;
          rows[m][high] = Row::of(e, z, p.tiling, p.shape.rows, first_b, first_i).index;
        }
        ARU_UNROLL
        for (int k = 0; k < (tiles + 1) / 2; ++k) {
          float4 g[2] = {};
          float left[4], right[4];
          ARU_UNROLL
          for (int high = 0; high < 2; ++high)
            if (rows[m][high] >= 0) g[high] = load_state(p.kept, p.half, segment * BH + rows[m][high], z.G, k);
          from_rows(g[0], g[1], left, right);
          state[m].set(k, left, right);
        }
      }
      ARU_ROLLED
      for (int step = 0; step < steps; ++step) {
        float a[at_once][2], ns[at_once][4];
        ARU_UNROLL
        for (int m = 0; m < at_once; ++m) {
          ARU_UNROLL
          for (int high = 0; high < 2; ++high)
            a[m][high] = rows[m][high] >= 0 ? p.a[(first + step) * BH + rows[m][high]] : 0.f;
        }
        controller_step<form, tiles, at_once>(
            controller, a, state, ns, [&](int m, int k, const float(&left)[4], const float(&right)[4]) {
              ARU_UNROLL
              for (int high = 0; high < 2; ++high)
                if (rows[m][high] >= 0)
                  store_state(p.recomputed, p.half, step * BH + rows[m][high], z.G, k, high, left, right);
            });
        ARU_UNROLL
        for (int m = 0; m < at_once; ++m) {
          ARU_UNROLL
          for (int high = 0; high < 2; ++high) {
            if (rows[m][high] < 0 || (lane & 3) != 0) continue;
            p.recomputed_ns[step * 2 * BH + rows[m][high]] = ns[m][2 * high];
            p.recomputed_ns[(step * 2 + 1) * BH + rows[m][high]] = ns[m][2 * high + 1];
          }
        }
      }
    }
  }
  sync_warp();  // n and s are read by other lanes
}

template <Form form, int tiles> ARU_DEVICE void sequence_backward(const Backward& p) {
  constexpr bool adaptive = tiles > 0;
  constexpr int some_tiles = adaptive ? tiles : 1, k_tiles = (some_tiles + 1) / 2;
  const Sizes z = p.sizes;
  const Tiling t = p.tiling;
  uint8_t* shared = shared_memory();
  uint4* weight = reinterpret_cast<uint4*>(shared + p.shape.weight_hh);
  float* partial = reinterpret_cast<float*>(shared + p.shape.sums);
  uint2* step_weights = reinterpret_cast<uint2*>(shared + p.shape.step_weights);
  // Adaptive: du of a row tile, [row tile][column tile][lane]; static: sums of dn and ds, [pair][lane].
  float4* carry = reinterpret_cast<float4*>(shared + p.shape.carry);
  float2* sums_ns = reinterpret_cast<float2*>(shared + p.shape.carry);
  const auto exchange = Exchange<form>::create(p, shared);
  pack_recurrent<form, true>(p, weight, exchange.rank);
  ControllerOperands<form, tiles> controller{};
  if constexpr (adaptive) {
    controller = ControllerOperands<form, tiles>::pack(p.controller, z.G, shared + p.shape.controller);
    const ControllerWeights& w = p.controller;
    pack_fragments<form>(step_weights, tiles, k_tiles, [&](int k, int n) {
      if (n >= z.G) return 0.f;
      if (k < z.G) return w.weight_gg[k * z.G + n];
      return k >= 8 * tiles - 2 && k < 8 * tiles ? w.weight_gc[(k & 1) * z.G + n] : 0.f;
    });
  }
  exchange.open();

  const int lane = thread_index() & 31, quad = lane & 28, q = lane & 3, warp = thread_index() / 32;
  const int first_i = exchange.rank * t.slice;
  const size_t BH = size_t(z.B) * z.H;
  float weight_sums[k_tiles][some_tiles][4] = {};
  if constexpr (!adaptive) {
    for (int pair = warp; pair < p.shape.pairs; pair += t.warps) sums_ns[pair * 32 + lane] = make_float2(0, 0);
  }
  int v = 0;
  for (int tile = block_index() / t.blocks; tile * t.batch < z.B; tile += t.groups) {
    const int first_b = tile * t.batch;
    if constexpr (adaptive) {
      for (int m = warp * 2; m < 2 * p.shape.pairs; m += (m & 1) ? 2 * t.warps - 1 : 1) {
        ARU_UNROLL
        for (int n = 0; n < tiles; ++n) carry[(m * tiles + n) * 32 + lane] = make_float4(0, 0, 0, 0);
      }
    }
    ARU_ROLLED
    for (int step = z.T - 1; step >= -1; --step, ++v) {
      const int segment = step / p.segment, in_segment = step - segment * p.segment;
      // g after this step
      const void* after = p.segment > 1 ? p.recomputed : p.kept;
      const int after_slot = p.segment > 1 ? in_segment : step + 1;
      if constexpr (adaptive) {
        if (p.segment > 1 && step >= 0 && (step == z.T - 1 || in_segment == p.segment - 1))
          recompute<form, tiles>(p, controller, segment, first_b, first_i);
      }
      if (v > 0) exchange.receive(v);
      if (step == z.T - 1) {
        exchange.fill(v, nullptr, first_b, z.B, z.H);
        sync_block();
      }
      recurrent_product<form>(t, p.shape, weight, exchange.buffer(v), partial);
      sync_block();
      if (v > 0) exchange.received(v);

      ARU_ROLLED
      for (int pair = warp; pair < p.shape.pairs; pair += t.warps) {
        const Row own = Row::of(pair * 32 + lane, z, t, p.shape.rows, first_b, first_i);
        const bool some = own.index >= 0;
        const size_t at = step * BH + own.index;
        const float dh = recurrent_sum(t, p.shape, partial, own.b, own.i);
        float da = 0, dn = 0, ds = 0, a_next = 0;
        if (some) {
          if (step >= 0) {
            float n, s;
            if constexpr (adaptive) {
              n = p.segment > 1 ? p.recomputed_ns[in_segment * 2 * BH + own.index] : p.n[at];
              s = p.segment > 1 ? p.recomputed_ns[(in_segment * 2 + 1) * BH + own.index] : p.s[at];
            } else {
              n = p.n_given[first_i + own.i];
              s = p.s_given[first_i + own.i];
            }
            const GammaDerivatives<float> d = gamma_derivatives<float>(p.a[at], n, s, p.n_floor);
            const float all_dh = dh + (p.d_h ? p.d_h[at] : 0.f);
            da = all_dh * d.dx + (p.d_a ? p.d_a[at] : 0.f);
            dn = all_dh * d.dn + (p.d_n ? p.d_n[at] : 0.f);
            ds = all_dh * d.ds + (p.d_s ? p.d_s[at] : 0.f);
          } else {
            p.d_h0[own.index] = dh;
          }
          if (adaptive && step + 1 < z.T) a_next = p.a[at + BH];
          if (step > 0) {
            prefetch(p.a + at - BH);
            if (p.d_h) prefetch(p.d_h + at - BH);
            if (adaptive && p.segment == 1) {
              prefetch(p.n + at - BH);
              prefetch(p.s + at - BH);
            }
          }
        }
        if constexpr (adaptive) {
          ARU_ROLLED
          for (int m = 0; m < 2; ++m) {
            const int low = quad + 2 * m, high = low + 1;
            const float extra[2][4] = {{shuffle(dn, low), shuffle(ds, low), shuffle(dn, high), shuffle(ds, high)},
                                       {shuffle(a_next, low), 1.f, shuffle(a_next, high), 1.f}};
            float4* own_carry = carry + (pair * 2 + m) * tiles * 32 + lane;
            int rows[2];
            float gradient[tiles][4], g[2 * k_tiles][4];
            ARU_UNROLL
            for (int half = 0; half < 2; ++half)
              rows[half] = Row::of(pair * 32 + low + half, z, t, p.shape.rows, first_b, first_i).index;
            ARU_UNROLL
            for (int k = 0; k < k_tiles; ++k) {
              float4 loaded[2] = {};
              ARU_UNROLL
              for (int half = 0; half < 2; ++half) {
                if (rows[half] < 0) continue;
                loaded[half] = step < 0 ? load_row(p.g0, size_t(rows[half]), z.G, k)
                                        : load_state(after, p.half, after_slot * BH + rows[half], z.G, k);
              }
              from_rows(loaded[0], loaded[1], g[2 * k], g[2 * k + 1]);
            }
            ARU_UNROLL
            for (int n = 0; n < tiles; ++n) {
              const float4 x = own_carry[n * 32];
              gradient[n][0] = x.x, gradient[n][1] = x.y, gradient[n][2] = x.z, gradient[n][3] = x.w;
            }
            if (q == 3) {
              ARU_UNROLL
              for (int j = 0; j < 4; ++j) {
                gradient[tiles - 1][j] = extra[0][j];
                g[tiles - 1][j] = extra[1][j];
              }
            }
            uint32_t operand[k_tiles][4][words_of(form)];
            operands_of<form, tiles>(gradient, operand);
            add_outer_products<form, tiles>(operand, g, weight_sums);
            float through_a[2] = {0, 0};
            ARU_UNROLL
            for (int n = 0; n < tiles; ++n) {
              float c[4] = {0, 0, 0, 0};
              ARU_UNROLL
              for (int k = 0; k < k_tiles; ++k) {
                uint32_t b[2][words_of(form)];
                load_fragment<form>(step_weights + (n * k_tiles + k) * words_of(form) * 32, lane, b);
                multiply<form>(c, operand[k], b);
              }
              if (p.d_g_last && step == z.T - 1) {
                ARU_UNROLL
                for (int j = 0; j < 4; ++j) {
                  const int column = n * 8 + 2 * q + (j & 1);
                  if (rows[j / 2] >= 0 && column < z.G) c[j] += p.d_g_last[size_t(rows[j / 2]) * z.G + column];
                }
              }
              if (step < 0) {
                ARU_UNROLL
                for (int j = 0; j < 4; ++j) {
                  const int column = n * 8 + 2 * q + (j & 1);
                  if (rows[j / 2] >= 0 && column < z.G) p.d_g0[size_t(rows[j / 2]) * z.G + column] = c[j];
                }
                continue;
              }
              ARU_UNROLL
              for (int j = 0; j < 4; ++j) c[j] *= 1.f - g[n][j] * g[n][j];
              own_carry[n * 32] = make_float4(c[0], c[1], c[2], c[3]);
              const float4 w = controller.input[n * 4 + q];
              through_a[0] += w.x * c[0] + w.y * c[1];
              through_a[1] += w.x * c[2] + w.y * c[3];
            }
            ARU_UNROLL
            for (int half = 0; half < 2; ++half) {
              through_a[half] += shuffle(through_a[half], lane ^ 1);
              through_a[half] += shuffle(through_a[half], lane ^ 2);
            }
            if (q / 2 == m) da += q & 1 ? through_a[1] : through_a[0];
          }
        } else {
          float2& sum = sums_ns[pair * 32 + lane];
          sum.x += dn;
          sum.y += ds;
        }
        if (some && step >= 0) p.d_xp[at] = da;
        exchange.send(v + 1, own.inside, own.b, own.i, some && step >= 0 ? da : 0.f);
      }
    }
  }
  if (v > 0) exchange.receive(v);  // no block ends while others store to it

  if constexpr (adaptive) {
    float* to = p.sums + (size_t(block_index()) * t.warps + warp) * gradient_rows(tiles) * gradient_columns(tiles);
    ARU_UNROLL
    for (int i = 0; i < k_tiles; ++i) {
      ARU_UNROLL
      for (int j = 0; j < tiles; ++j) {
        ARU_UNROLL
        for (int e = 0; e < 4; ++e)
          to[(i * 16 + lane / 4 + e / 2 * 8) * gradient_columns(tiles) + j * 8 + 2 * q + (e & 1)] = weight_sums[i][j][e];
      }
    }
  } else {
    for (int pair = warp; pair < p.shape.pairs; pair += t.warps) {
      const Row own = Row::of(pair * 32 + lane, z, t, p.shape.rows, 0, first_i);
      if (!own.inside) continue;
      const int columns = t.blocks * t.slice;
      float* to = p.sums + size_t(block_index() / t.blocks) * 2 * t.batch * columns + own.b * columns + first_i + own.i;
      to[0] = sums_ns[pair * 32 + lane].x;
      to[t.batch * columns] = sums_ns[pair * 32 + lane].y;
    }
  }
}

}  // namespace cuda
}  // namespace aru
