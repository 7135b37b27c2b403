// The controller's part of a backward step: where the step's state is, and the way from V to du and to the controller's
// share of da (backward.cuh defines V and A).
#pragma once

#include "controller.cuh"

namespace aru {
namespace cuda {

// The backward loop's position, and where the state after its step is: kept, or recomputed.
struct StepCursor {
  int step, segment, in_segment;
  // Steps of the segment whose state is recomputed: all but the last, whose state is the next segment's checkpoint.
  int recomputed;

  ARU_DEVICE StepCursor last(const Backward& p) {
    const int step = p.sizes.T - 1, segment = step / p.segment, in_segment = step % p.segment;
    return {step, segment, in_segment, p.segment > 1 ? in_segment + 1 : 0};
  }
  ARU_METHOD void back(const Backward& p) {
    --step;
    if (--in_segment < 0) {
      in_segment = p.segment - 1;
      recomputed = p.segment - 1;
      --segment;
    }
  }
  ARU_METHOD bool is_last(const Backward& p) const { return step == p.sizes.T - 1; }
  ARU_METHOD bool opens_segment(const Backward& p) const {
    return p.segment > 1 && step >= 0 && (is_last(p) || in_segment == p.segment - 1);
  }
  // Whether the step's state is the last one that recomputation of the segment yields.
  ARU_METHOD bool recomputed_last() const { return recomputed > 0 && in_segment == recomputed - 1; }
  template <Form form> ARU_METHOD KeptState<form, const void> state(const Backward& p, const Image& image) const {
    const bool again = in_segment < recomputed;
    return KeptState<form, const void>::of(again ? p.recomputed : p.kept, again ? in_segment : segment + 1,
                                           p.slot_bytes, image, p.sizes.G);
  }
};

// A step of the backward loop, for a lane's row.
template <class Rows> struct BackwardStep {
  const StepCursor& cursor;
  int vector;          // the exchanged vector that the step has received (exchange.cuh)
  const Image& image;  // of the warp
  const Rows& rows;    // rows() makes the lane's PairRows, which few steps need
  float dn, ds;        // gradients of n and s
  float a_next;        // a of the following time step
  float da;            // gradient of a through gamma
};

// The A operand of V^T, of one k tile, from V's operand: a lane's pairs, transposed, are pairs of the transposed
// matrix. second: whether V has the second of the k tile's two column tiles.
template <Form form>
ARU_DEVICE void transposed_operand(const uint32_t (&v)[4][words_of(form)], bool second,
                                   uint32_t (&vt)[4][words_of(form)]) {
  ARU_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int transposed = j % 2 * 2 + j / 2;
    ARU_UNROLL
    for (int p = 0; p < words_of(form); ++p) vt[j][p] = v[transposed][p];
    if (j % 2 == 0 || second) transpose_pairs<form>(vt[j]);
  }
}

// <w_ag, du> of the lane's own row, from its quad's shares of rows r and r + 8 of tile m; 0 if the lane's row is in the
// other tile.
ARU_DEVICE float own_share(float (&through_a)[2], int m) {
  const int lane = thread_index() & 31, q = lane & 3;
  ARU_UNROLL
  for (int half = 0; half < 2; ++half) {
    through_a[half] += shuffle(through_a[half], lane ^ 1);
    through_a[half] += shuffle(through_a[half], lane ^ 2);
  }
  return q / 2 != m ? 0.f : q & 1 ? through_a[1] : through_a[0];
}

// The controller's weights in both passes.
template <class K> struct ControllerBackward {
  static constexpr Form form = K::form;
  const Backward& p;
  ControllerOperands<K> forward;  // of the forward step, for recomputation
  uint2* weights;                 // [W_gg; W_gc], as fragments [column tile][k tile] or for groups of warps

  ARU_DEVICE ControllerBackward at(const Backward& p, uint8_t* shared) {
    return {p, {}, reinterpret_cast<uint2*>(shared + p.shape.step_weights)};
  }
  ARU_METHOD void pack_weights() const {
    const ControllerWeights& w = p.controller;
    const int G = p.sizes.G;
    const auto element = [&](int k, int n) {
      const int from = unit_of(k, G), to = unit_of(n, G);
      if (to >= G) return 0.f;
      if (from < G) return w.weight_gg[from * G + to];
      return k >= 8 * K::tiles - 2 && k < 8 * K::tiles ? w.weight_gc[(k & 1) * G + to] : 0.f;
    };
    if constexpr (K::in_groups)
      pack_for_groups<form>(weights, K::tiles, K::k_tiles, element);
    else
      pack_fragments<form>(weights, K::tiles, K::k_tiles, element);
  }

  // c[j][row tile] += column tile n + j of V [W_gg; W_gc].
  template <int columns, int rows>
  ARU_METHOD void add_product(int n, const uint32_t (&v)[rows][K::k_tiles][4][K::words],
                              float (&c)[columns][rows][4]) const {
    ARU_UNROLL
    for (int k = 0; k < K::k_tiles; ++k) {
      uint32_t b[columns][2][K::words];
      ARU_UNROLL
      for (int j = 0; j < columns; ++j)
        load_fragment<form>(weights + ((n + j) * K::k_tiles + k) * K::words * 32, thread_index() & 31, b[j]);
      ARU_UNROLL
      for (int term = 0; term < instructions_of(form); ++term) {
        ARU_UNROLL
        for (int e = 0; e < columns * rows; ++e)
          multiply_term<form>(term, c[e / rows][e % rows], v[e % rows][k], b[e / rows], K::whole(k));
      }
    }
  }

  // From c = dg_t to du_t = c (1 - g^2), for the rows of row tile m in column tile n; adds to <w_ag, du_t>.  at_end:
  // the step is the last one, where the gradient of the last g is added to c, or step -1, where c is the gradient of
  // g0.  The code of all other steps does without.
  template <bool at_end>
  ARU_METHOD void through_tanh(int step, const PairRows& rows, int m, int n, const float (&g)[4], float (&c)[4],
                               float (&through_a)[2]) const {
    const int q = thread_index() & 3, G = p.sizes.G;
    if constexpr (at_end) {
      const UnitPair units = UnitPair::of(n, G);
      ARU_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int unit = j % 2 ? units.second : units.first, row = rows.index(m, j / 2);
        if (row < 0 || unit >= G) continue;
        const size_t at = size_t(row) * G + unit;
        if (step < 0)
          p.d_g0[at] = c[j];
        else
          c[j] += p.d_g_last[at];
      }
      if (step < 0) return;
    }
    ARU_UNROLL
    for (int j = 0; j < 4; ++j) c[j] *= 1.f - g[j] * g[j];
    const float4 w = forward.input[n * 4 + q];
    through_a[0] += w.x * c[0] + w.y * c[1];
    through_a[1] += w.x * c[2] + w.y * c[3];
  }
};

// Recomputes g after the steps of the cursor's segment, from the state kept before it, for this warp's rows.  Where
// groups of warps make the sums, the last of these states goes to `last` in shared memory; no product of the group
// reads that after the first barrier here.
template <class K>
ARU_DEVICE void recompute(const ControllerBackward<K>& controller, const StepCursor& cursor, const Image& image,
                          const PairRows& rows, int group, uint32_t* last) {
  constexpr Form form = K::form;
  const Backward& p = controller.p;
  const size_t BH = size_t(p.sizes.B) * p.sizes.H;
  const int steps = cursor.recomputed, segment = cursor.segment;
  const auto kept_before = [&](int which) {
    return KeptState<form, const void>::of(p.kept, which, p.slot_bytes, image, p.sizes.G);
  };
  if (segment > 0) {  // prefetches for the next call
    kept_before(segment - 1).prefetch_all();
    if (rows.count > 0)
      for (int step = 0; step < p.segment; ++step)
        prefetch(p.a + (size_t(segment - 1) * p.segment + step) * BH + rows.first);
  }
  const auto kept = kept_before(segment);
  ARU_ROLLED
  for (int m = 0; m < 2; ++m) {  // one row tile at a time: two would spill
    const int row[2] = {rows.index(m, 0), rows.index(m, 1)};
    const float* a_at = p.a + size_t(segment) * p.segment * BH;
    float next_a[2];
    ControllerState<K> state[1];
    KeptPair<form> g[2][K::tiles];
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
      if constexpr (ControllerState<K>::packed && !K::in_groups) {
        // a column tile at a time takes fewer registers
        const auto operands = StateOperands<K, 1>::of(state);
        const auto product = [&](int j, float (&c)[2][1][4]) { operands.add_product(controller.forward, j, c); };
        controller_finish<K>(controller.forward, a, product, state, [](int) {});
        to.store(2 * m, state);
      } else {
        ControllerProduct<K, 1> product;
        product.start(controller.forward, state);
        product.finished();
        controller_finish<K>(controller.forward, a, product, state, [](int) {});
        if constexpr (K::sums_in_groups) {
          if (m == 0 && step == 0) sync_group(group);
          if (step == steps - 1) {
            put_rows<form>(last + 2 * m * K::tiles * 32 + (thread_index() & 31), K::tiles * 32, 32, to.tiles, state);
            continue;
          }
        }
        to.store(2 * m, state);
      }
    }
  }
}

}  // namespace cuda
}  // namespace aru
