// The controller's part of a backward step: where its state is, du from V, its share of da, and the sums of the
// weights' gradients V^T A (backward.cuh says what V and A are).  The sums over t stay in registers: each warp's of its
// own rows (OwnSums), or of all rows of a block, or of four warps, each warp some units (SharedSums), from operands in
// shared memory, which takes a quarter of the registers.
#pragma once

#include "controller.cuh"

namespace aru {
namespace cuda {

// Where a step's state is: g after the step, kept or computed again.
struct StepPlace {
  int step, segment, in_segment;
  int again;  // steps of the segment whose state is computed again: all but the last, where the next segment begins

  ARU_DEVICE StepPlace last(const Backward& p) {
    const int step = p.sizes.T - 1, segment = step / p.segment, in_segment = step % p.segment;
    return {step, segment, in_segment, p.segment > 1 ? in_segment + 1 : 0};
  }
  ARU_METHOD void back(const Backward& p) {
    --step;
    if (--in_segment < 0) {
      in_segment = p.segment - 1;
      again = p.segment - 1;
      --segment;
    }
  }
  ARU_METHOD bool is_last(const Backward& p) const { return step == p.sizes.T - 1; }
  ARU_METHOD bool opens_segment(const Backward& p) const {
    return p.segment > 1 && step >= 0 && (is_last(p) || in_segment == p.segment - 1);
  }
  // Of the segment's states the last one is computed last.
  ARU_METHOD bool computed_last() const { return again > 0 && in_segment == again - 1; }
  template <Form form> ARU_METHOD KeptState<form, const void> kept(const Backward& p, const Image& image) const {
    const bool computed = in_segment < again;
    return KeptState<form, const void>::of(computed ? p.recomputed : p.kept, computed ? in_segment : segment + 1,
                                           p.slot_bytes, image, p.sizes.G);
  }
};

// The A operand of V^T, of one k tile, from V's: a lane's pairs, transposed, are pairs of the transposed matrix's
// operand.  second: whether V has the second of the k tile's two column tiles.
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

// c = dg_t of 16 rows in column tile n; gives du_t = c (1 - g^2) and adds to <w_ag, du_t>.  At the ends of the sequence
// c takes the gradient of the last g, and is that of the first (at_end; the code of all other steps does without).
template <Form form, int tiles, bool at_end>
ARU_DEVICE void through_tanh(const Backward& p, const ControllerOperands<form, tiles>& controller, int step,
                             const PairRows& rows, int m, int n, const float (&g)[4], float (&c)[4],
                             float (&through_a)[2]) {
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
  const float4 w = controller.input[n * 4 + q];
  through_a[0] += w.x * c[0] + w.y * c[1];
  through_a[1] += w.x * c[2] + w.y * c[3];
}

// <w_ag, du> of the lane's own row, from its quad's parts of rows r and r + 8 of tile m; 0 where that is another
// tile's.
ARU_DEVICE float own_share(float (&through_a)[2], int m) {
  const int lane = thread_index() & 31, q = lane & 3;
  ARU_UNROLL
  for (int half = 0; half < 2; ++half) {
    through_a[half] += shuffle(through_a[half], lane ^ 1);
    through_a[half] += shuffle(through_a[half], lane ^ 2);
  }
  return q / 2 != m ? 0.f : q & 1 ? through_a[1] : through_a[0];
}

// The operand [W_gg; W_gc] of a step's product with V, as fragments or for groups of warps.
template <Form form, int tiles> ARU_DEVICE void pack_step_weights(const Backward& p, uint2* to) {
  const ControllerWeights& w = p.controller;
  const int G = p.sizes.G;
  const auto element = [&](int k, int n) {
    const int from = unit_of(k, G), to = unit_of(n, G);
    if (to >= G) return 0.f;
    if (from < G) return w.weight_gg[from * G + to];
    return k >= 8 * tiles - 2 && k < 8 * tiles ? w.weight_gc[(k & 1) * G + to] : 0.f;
  };
  if constexpr (uses_groups(form))
    pack_for_groups<form>(to, tiles, (tiles + 1) / 2, element);
  else
    pack_fragments<form>(to, tiles, (tiles + 1) / 2, element);
}

// The column tiles from n on of V [W_gg; W_gc], one c[..][rows] each.
template <Form form, int tiles, int columns, int rows>
ARU_DEVICE void step_product(const uint2* step_weights, int n,
                             const uint32_t (&v)[rows][(tiles + 1) / 2][4][words_of(form)],
                             float (&c)[columns][rows][4]) {
  constexpr int k_tiles = (tiles + 1) / 2;
  ARU_UNROLL
  for (int k = 0; k < k_tiles; ++k) {
    uint32_t b[columns][2][words_of(form)];
    ARU_UNROLL
    for (int j = 0; j < columns; ++j)
      load_fragment<form>(step_weights + ((n + j) * k_tiles + k) * words_of(form) * 32, thread_index() & 31, b[j]);
    ARU_UNROLL
    for (int term = 0; term < instructions_of(form); ++term) {
      ARU_UNROLL
      for (int e = 0; e < columns * rows; ++e)
        multiply_term<form>(term, c[e / rows][e % rows], v[e % rows][k], b[e / rows], 2 * k + 1 < tiles);
    }
  }
}

// The controller's part of a step for a warp's rows: gives da, from what gamma says of it, its share through the state.
// This form keeps du in shared memory between steps and sums the weights' gradients of its own rows.
template <Form form, int tiles> struct OwnSums {
  static_assert(tiles % 2 == 1, "column tiles are taken in pairs, the last alone");
  static constexpr int k_tiles = (tiles + 1) / 2;
  static constexpr int chunk = 16;  // steps whose sums are taken by the matrix unit, which rounds towards zero
  float4* du;                       // of the lane: [row tile][column tile][32 lanes]
  float sums[k_tiles][tiles][4];
  float* total;  // of the lane
  int steps = 0;
  bool some = false;

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
  // dn, ds: of the lane's element, as are a_next and da.
  template <bool at_end, class Rows>
  ARU_METHOD float step(const Backward& p, const ControllerOperands<form, tiles>& controller, const uint2* step_weights,
                        const StepPlace& place, int, const Image& image, const Rows& rows, float dn, float ds,
                        float a_next, float da) {
    const int lane = thread_index() & 31, quad = lane & 28, q = lane & 3;
    const auto state = place.kept<form>(p, image);
    ARU_ROLLED
    for (int m = 0; m < 2; ++m) {
      const int low = quad + 2 * m, high = low + 1;
      const float extra[2][4] = {{shuffle(dn, low), shuffle(ds, low), shuffle(dn, high), shuffle(ds, high)},
                                 {shuffle(a_next, low), 1.f, shuffle(a_next, high), 1.f}};
      float4* own = du + m * tiles * 32;
      if (q == 3) own[(tiles - 1) * 32] = make_float4(extra[0][0], extra[0][1], extra[0][2], extra[0][3]);
      float g[2 * k_tiles][4];
      ARU_UNROLL
      for (int n = 0; n < tiles; ++n) {
        float2 pair[2] = {};
        ARU_UNROLL
        for (int half = 0; half < 2; ++half)  // branches: all loads side by side would take too many registers
          if (n < state.tiles)
            pair[half] = state.image[state.lane + ((2 * m + half) * state.all_tiles + n) * state.quads * 4];
        g[n][0] = pair[0].x, g[n][1] = pair[0].y, g[n][2] = pair[1].x, g[n][3] = pair[1].y;
      }
      uint32_t a[tiles][2][words_of(form)];  // pairs of an accumulator, transposed, are pairs of a B operand
      ARU_UNROLL
      for (int n = 0; n < tiles; ++n) {
        ARU_UNROLL
        for (int half = 0; half < 2; ++half) {
          const bool last = n == tiles - 1 && q == 3;
          pack<form>(last ? extra[1][2 * half] : g[n][2 * half], last ? extra[1][2 * half + 1] : g[n][2 * half + 1],
                     a[n][half]);
          transpose_pairs<form>(a[n][half]);
        }
      }
      uint32_t operand[1][k_tiles][4][words_of(form)];
      ARU_UNROLL
      for (int i = 0; i < k_tiles; ++i) {
        uint32_t vt[4][words_of(form)];
        load_v(own, i, operand[0][i]);
        transposed_operand<form>(operand[0][i], 2 * i + 1 < tiles, vt);
        multiply<form>(sums[i], vt, a);
      }
      if constexpr (form == Form::split) {  // three words a pair are read again, rather than held beside the sums
        sync_warp();
        ARU_UNROLL
        for (int k = 0; k < k_tiles; ++k) load_v(own, k, operand[0][k]);
      }
      float through_a[2] = {0, 0};
      const auto column_tile = [&](int n, float (&c)[4]) {
        PairRows ends{};
        if constexpr (at_end) ends = rows();
        through_tanh<form, tiles, at_end>(p, controller, place.step, ends, m, n, g[n], c, through_a);
        own[n * 32] = make_float4(c[0], c[1], c[2], c[3]);
      };
      ARU_UNROLL
      for (int n = 0; n + 1 < tiles; n += 2) {
        float c[2][1][4] = {};
        step_product<form, tiles>(step_weights, n, operand, c);
        column_tile(n, c[0][0]);
        column_tile(n + 1, c[1][0]);
      }
      float c[1][1][4] = {};
      step_product<form, tiles>(step_weights, tiles - 1, operand, c);
      column_tile(tiles - 1, c[0][0]);
      da += own_share(through_a, m);
    }
    if (++steps == chunk) flush();
    return da;
  }
  // One k tile of V, as an operand.
  ARU_DEVICE void load_v(const float4* own, int k, uint32_t (&v)[4][words_of(form)]) {
    const float4 x = own[2 * k * 32], y = 2 * k + 1 < tiles ? own[(2 * k + 1) * 32] : make_float4(0, 0, 0, 0);
    const float left[4] = {x.x, x.y, x.z, x.w}, right[4] = {y.x, y.y, y.z, y.w};
    operand_of<form>(left, right, v);
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
          *to = some ? *to + sums[i][j][e] : sums[i][j][e];
          sums[i][j][e] = 0;
        }
      }
    }
    steps = 0;
    some = true;
  }
  ARU_METHOD void finished() {}
  ARU_METHOD void park(const Backward&) const {}
  ARU_METHOD void take_back(const Backward&) {}
  ARU_METHOD void finish(const Backward&) {
    if (steps || !some) flush();
  }
};

// Whether groups of warps make the sums, which therefore need nothing of another group.
ARU_ANYWHERE constexpr bool sums_in_groups(Form form, int tiles) {
  return uses_groups(form) && sharing_warps(tiles) == 4;
}

// The same with the operands V and A of all warps in shared memory, where the warps share the sums: a warp has 16 rows
// of V^T A, from some of the rows.  Both lie as 8 x 8 matrices of 128 bytes, [8 rows][column tile].  Groups of warps
// take the rows of their own.
//
// The state comes by copies that run beside the exchange and the recurrent product to where A will be, and becomes A
// there; A has two buffers, for the next step's comes while the sums are made.  du of a step, which is V of the one
// before, waits for them in registers.
template <Form form, int tiles> struct SharedSums {
  static_assert(words_of(form) == 1 && kept_pair_bytes(form) == 4, "a pair of numbers is a word");
  static_assert(tiles % 2 == 1, "column tiles are multiplied in pairs, the last alone");
  static constexpr int k_tiles = (tiles + 1) / 2;
  static constexpr int rows_words = tiles * 32;  // of 8 rows
  static constexpr bool in_groups = sums_in_groups(form, tiles);
  uint32_t *left, *right;  // V and A
  int right_words;
  int units, part;  // of the sums: which 16 units, and of which part of the row tiles
  float sums[tiles][4];
  uint32_t du[2][tiles][2];  // of the lane's rows: [row tile][column tile][r or r + 8]

  ARU_DEVICE SharedSums create(const Backward& p) {
    SharedSums s{};
    s.left = reinterpret_cast<uint32_t*>(shared_memory() + p.shape.left);
    s.right = reinterpret_cast<uint32_t*>(shared_memory() + p.shape.right);
    s.right_words = p.shape.pairs * 4 * rows_words;
    s.units = warp_index() % sharing_warps(tiles);
    s.part = warp_index() / sharing_warps(tiles);
    // What no state comes to stays A of before, and finite; V is zero there.
    for (int e = thread_index(); e < 2 * s.right_words; e += block_threads()) s.right[e] = 0;
    return s;
  }
  // Where the warp's rows begin, those of its first tile's first half.
  ARU_METHOD int own() const { return (part * sharing_warps(tiles) + units) * 4 * rows_words; }
  ARU_METHOD uint32_t* own_left() const { return left + own(); }
  ARU_METHOD uint32_t* own_right(int v) const { return right + (v & 1) * right_words + own(); }
  ARU_METHOD void begin_tile(bool) {
    ARU_UNROLL
    for (int e = 0; e < 4 * tiles; ++e) du[e % 2][e / 4][e / 2 % 2] = 0;
  }
  // The state for step v on its way; it is there after fetched() and a barrier.
  ARU_METHOD void fetch(const KeptState<form, const void>& from, const Image& image, int v) const {
    const int lane = thread_index() & 31;
    sync_warp();  // other lanes may have computed it again
    from.strided([&](auto stride, int) {
      ARU_UNROLL
      for (int i = 0; i < ceil_div(tiles, 4); ++i) {  // four column tiles at once, a quad a lane
        const int n = lane / 8 + 4 * i;
        const bool wanted = image.copied() < 15 && n < from.all_tiles;
        uint32_t* to = own_right(v) + n * 32 + lane % 8 * 4;
        const uint32_t* at = from.image + n * stride + image.copied() * 4;
        ARU_UNROLL
        for (int row = 0; row < 4; ++row) copy_async(wanted, to + row * rows_words, at + row * from.all_tiles * stride);
      }
    });
    sync_warp();  // quads == 8 is the same for all, which the compiler does not know
  }
  ARU_METHOD void fetched() const { copies_done(); }
  template <bool at_end, class Rows>
  ARU_METHOD float step(const Backward& p, const ControllerOperands<form, tiles>& controller, const uint2* step_weights,
                        const StepPlace& place, int v, const Image&, const Rows& rows, float dn, float ds, float a_next,
                        float da) {
    const int lane = thread_index() & 31, quad = lane & 28, q = lane & 3;
    uint32_t gains[1], input[1];
    pack<form>(dn, ds, gains);
    pack<form>(a_next, 1.f, input);
    uint32_t *of_v = own_left() + lane, *of_a = own_right(v) + lane;
    uint32_t last[2][2];
    ARU_UNROLL
    for (int m = 0; m < 2; ++m) {
      ARU_UNROLL
      for (int half = 0; half < 2; ++half) {
        const uint32_t word = shuffle(gains[0], quad + 2 * m + half);
        last[m][half] = shuffle(input[0], quad + 2 * m + half);
        if (q == 3) du[m][tiles - 1][half] = word;
      }
    }
    uint32_t operand[2][k_tiles][4][1] = {}, g[2][tiles][2];
    const auto load_operand = [&](int m) {
      ARU_UNROLL
      for (int e = 0; e < 2 * tiles; ++e) operand[m][e / 4][e % 4][0] = du[m][e / 2][e % 2];
    };
    // Stores V, and makes A of the state.
    const auto exchange_operands = [&](int m) {
      ARU_UNROLL
      for (int e = 0; e < 2 * tiles; ++e) {
        const int at = (2 * m + e % 2) * rows_words + e / 2 * 32;
        of_v[at] = du[m][e / 2][e % 2];
        g[m][e / 2][e % 2] = of_a[at];
      }
      ARU_UNROLL
      for (int e = 0; e < 2 * tiles; ++e) {
        const float2 pair = unpacked(g[m][e / 2][e % 2]);
        uint32_t word[1];
        pack<form>(pair.x, pair.y, word);
        of_a[(2 * m + e % 2) * rows_words + e / 2 * 32] = e / 2 == tiles - 1 && q == 3 ? last[m][e % 2] : word[0];
      }
    };
    PairRows ends{};
    if constexpr (at_end) ends = rows();
    float through_a[2][2] = {};
    const auto column_tile = [&](int m, int n, float (&c)[4]) {
      const float2 low = unpacked(g[m][n][0]), high = unpacked(g[m][n][1]);
      const float of_g[4] = {low.x, low.y, high.x, high.y};
      through_tanh<form, tiles, at_end>(p, controller, place.step, ends, m, n, of_g, c, through_a[m]);
      ARU_UNROLL
      for (int half = 0; half < 2; ++half) {
        uint32_t word[1];
        pack<form>(c[2 * half], c[2 * half + 1], word);
        du[m][n][half] = word[0];
      }
    };
    if constexpr (uses_groups(form)) {
      const auto weights = GroupMatrix::at(step_weights, tiles * 128, 128);
      ARU_UNROLL
      for (int m = 0; m < 2; ++m) {
        float c[tiles][4];
        load_operand(m);
        group_pin(c);
        group_begin();
        multiply_in_groups<form>(c, operand[m], weights);
        group_commit();
        exchange_operands(m);
        group_wait();
        group_pin(c);
        ARU_UNROLL
        for (int n = 0; n < tiles; ++n) column_tile(m, n, c[n]);
      }
    } else {
      ARU_UNROLL
      for (int m = 0; m < 2; ++m) {
        load_operand(m);
        exchange_operands(m);
      }
      ARU_UNROLL
      for (int n = 0; n < tiles; ++n) {
        float c[1][2][4] = {};
        step_product<form, tiles>(step_weights, n, operand, c);
        column_tile(0, n, c[0][0]);
        column_tile(1, n, c[0][1]);
      }
    }
    ARU_UNROLL
    for (int m = 0; m < 2; ++m) da += own_share(through_a[m], m);
    return da;
  }
  // V^T A, when the warps have written theirs; before they write again come finished() and another barrier.
  ARU_METHOD void share(const Backward& p, int v) {
    if constexpr (in_groups)
      share_in_groups(p, v);
    else
      share_in_block(p, v);
  }
  ARU_METHOD void finished() {
    if constexpr (in_groups) {
      group_wait();
      group_pin(sums);
    }
  }
  ARU_METHOD void share_in_groups(const Backward& p, int v) {
    if (part >= p.shape.pairs / 4) return;
    publish_to_groups();
    sync_group(part);
    const int first = part * 16 * rows_words;
    const auto of_left = GroupMatrix::at(left + first, rows_words * 4, 128);
    const auto of_right = GroupMatrix::at(right + (v & 1) * right_words + first, rows_words * 4, 128);
    group_pin(sums);
    group_begin();
    ARU_UNROLL
    for (int tile = 0; tile < 8; ++tile)
      group_mma_of_columns(sums, of_left.from(tile * 2 * rows_words * 4), of_right.from(tile * 2 * rows_words * 4));
    group_commit();
  }
  ARU_METHOD void share_in_block(const Backward& p, int v) {
    sync_block();
    const int lane = thread_index() & 31, matrix = lane / 8, row = lane % 8;
    const int parts = parts_of_block(p.tiling, form, tiles);
    if (part >= parts || units >= k_tiles) return;
    // Beyond the last column tile: another's, for rows of the sum that nobody reads.
    const int left_tile = 2 * units + matrix % 2 < tiles ? 2 * units + matrix % 2 : 0;
    constexpr int tile_bytes = 2 * rows_words * 4;
    const int left_rows = matrix / 2, right_rows = matrix % 2;  // which 8
    uint32_t from_left = shared_address(left + left_rows * rows_words + left_tile * 32 + row * 4) + part * tile_bytes;
    uint32_t from_right =
        shared_address(right + (v & 1) * right_words + right_rows * rows_words + row * 4) + part * tile_bytes;
    const uint32_t beside = matrix / 2 * 128;  // bytes to the second of two column tiles
    ARU_UNROLL_BY(2)
    for (int tile = part; tile < 2 * p.shape.pairs; tile += parts) {
      uint32_t a[4][1], words[4];
      load_transposed(from_left, words);
      from_left += parts * tile_bytes;
      ARU_UNROLL
      for (int j = 0; j < 4; ++j) a[j][0] = words[j];
      ARU_UNROLL
      for (int n = 0; n + 1 < tiles; n += 2) {
        load_transposed(from_right + n * 128 + beside, words);
        multiply<form>(sums[n], a, {{words[0]}, {words[1]}});
        multiply<form>(sums[n + 1], a, {{words[2]}, {words[3]}});
      }
      uint32_t pair[2];
      load_transposed(from_right + (tiles - 1) * 128, pair);
      multiply<form>(sums[tiles - 1], a, {{pair[0]}, {pair[1]}});
      from_right += parts * tile_bytes;
    }
  }
  ARU_METHOD void finish(const Backward& p) {
    finished();
    park(p);
  }
  // Leaves the sums in memory, and takes them back: what comes between may have their registers.
  ARU_METHOD void park(const Backward& p) const {
    each_sum(p, [&](float* at, int n, int e) { *at = sums[n][e]; });
  }
  ARU_METHOD void take_back(const Backward& p) {
    ARU_UNROLL
    for (int e = 0; e < 4 * tiles; ++e) sums[e / 4][e % 4] = 0;
    each_sum(p, [&](const float* at, int n, int e) { sums[n][e] = *at; });
  }

 private:
  template <class Action> ARU_METHOD void each_sum(const Backward& p, const Action& action) const {
    const int lane = anew(thread_index()) & 31;
    const int parts = parts_of_block(p.tiling, form, tiles), columns = gradient_columns(tiles);
    if (part >= parts || units >= k_tiles) return;
    float* to = p.sums + (size_t(block_index()) * parts + part) * gradient_rows(tiles) * columns;
    ARU_UNROLL
    for (int n = 0; n < tiles; ++n) {
      ARU_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int row = units * 16 + e / 2 * 8 + lane / 4, column = n * 8 + 2 * (lane & 3) + (e & 1);
        action(to + row * columns + column, n, e);
      }
    }
  }
};

template <Form form, int tiles>
using WeightSums = std::conditional_t<shares_sums(form, tiles), SharedSums<form, tiles>, OwnSums<form, tiles>>;

}  // namespace cuda
}  // namespace aru
