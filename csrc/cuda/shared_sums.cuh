// The sums of the controller's weight gradients V^T A where warps share them: the operands V and A of all warps are in
// shared memory, and each warp has the sums of 16 units in registers, a quarter of what the sums of its own rows take
// (own_sums.cuh).  A warp sums over the rows of its group of four warps if groups make the products, otherwise over
// some of the block's row tiles.
//
// V and A are 8 x 8 matrices of 128 bytes, [8 rows][column tile].  The kept state arrives by asynchronous copies,
// during the exchange and the recurrent product, in the memory of A, and becomes A there.  A has two buffers, because
// the next step's state arrives while the sums are made.  du of a step, which is V of the following one, stays in
// registers.
#pragma once

#include "controller_backward.cuh"

namespace aru {
namespace cuda {

template <class K> struct SharedSums {
  static constexpr Form form = K::form;
  static_assert(words_of(form) == 1 && kept_pair_bytes(form) == 4, "a pair of numbers is a word");
  static_assert(K::tiles % 2 == 1, "column tiles are multiplied in pairs, the last by itself");
  static constexpr int tiles = K::tiles, k_tiles = K::k_tiles;
  static constexpr int rows_words = tiles * 32;  // words of 8 rows
  uint32_t *left, *right;                        // V and A of the block
  int right_words;                               // of one buffer of A
  int units, part;  // the warp's sums: which 16 units, and over which part of the row tiles
  float sums[tiles][4];
  uint32_t du[2][tiles][2];  // of the lane's rows: [row tile][column tile][r or r + 8]

  ARU_DEVICE SharedSums create(const Backward& p) {
    SharedSums s{};
    s.left = reinterpret_cast<uint32_t*>(shared_memory() + p.shape.left);
    s.right = reinterpret_cast<uint32_t*>(shared_memory() + p.shape.right);
    s.right_words = p.shape.pairs * 4 * rows_words;
    s.units = warp_index() % K::sharing_warps;
    s.part = warp_index() / K::sharing_warps;
    // Rows that receive no state keep the A of an earlier step.  It has to be finite, because V is zero there.
    for (int e = thread_index(); e < 2 * s.right_words; e += block_threads()) s.right[e] = 0;
    return s;
  }
  // The first word of the warp's rows.
  ARU_METHOD int own() const { return (part * K::sharing_warps + units) * 4 * rows_words; }
  ARU_METHOD uint32_t* own_left() const { return left + own(); }
  ARU_METHOD uint32_t* own_right(int v) const { return right + (v & 1) * right_words + own(); }
  ARU_METHOD void begin_tile(bool) {
    ARU_UNROLL
    for (int e = 0; e < 4 * tiles; ++e) du[e % 2][e / 4][e / 2 % 2] = 0;
  }

  // Starts to copy the state for step v; it has arrived after fetched() and a barrier.
  ARU_METHOD void fetch(const KeptState<form, const void>& from, const Image& image, int v) const {
    const int lane = thread_index() & 31;
    sync_warp();  // other lanes may have recomputed it
    from.strided([&](auto stride, int) {
      ARU_UNROLL
      for (int i = 0; i < ceil_div(tiles, 4); ++i) {  // four column tiles at once, a quad a lane
        const int n = lane / 8 + 4 * i;
        const bool wanted = image.has_copied_quad() && n < from.all_tiles;
        uint32_t* to = own_right(v) + n * 32 + lane % 8 * 4;
        const uint32_t* at = from.image + n * stride + image.copied_quad() * 4;
        ARU_UNROLL
        for (int row = 0; row < 4; ++row) copy_async(wanted, to + row * rows_words, at + row * from.all_tiles * stride);
      }
    });
    sync_warp();  // quads == 8 is the same in all lanes, which the compiler does not know
  }
  ARU_METHOD void fetched() const { copies_done(); }

  // A step of the warp's rows: stores V and A, and replaces V's du by that of this step; returns da with the
  // controller's share.
  template <bool at_end, class Rows>
  ARU_METHOD float step(const ControllerBackward<K>& controller, const BackwardStep<Rows>& s) {
    const int lane = thread_index() & 31, quad = lane & 28, q = lane & 3;
    uint32_t gains[1], input[1];
    pack<form>(s.dn, s.ds, gains);
    pack<form>(s.a_next, 1.f, input);
    uint32_t *of_v = own_left() + lane, *of_a = own_right(s.vector) + lane;
    uint32_t last[2][2];  // the last pair of A: [row tile][r or r + 8]
    ARU_UNROLL
    for (int m = 0; m < 2; ++m) {
      ARU_UNROLL
      for (int half = 0; half < 2; ++half) {
        const uint32_t word = shuffle(gains[0], quad + 2 * m + half);
        last[m][half] = shuffle(input[0], quad + 2 * m + half);
        if (q == 3) du[m][tiles - 1][half] = word;
      }
    }
    uint32_t v[2][k_tiles][4][1] = {}, g[2][tiles][2];  // V as an operand, and the state in float16
    PairRows ends{};
    if constexpr (at_end) ends = s.rows();
    float through_a[2][2] = {};
    const auto column_tile = [&](int m, int n, const uint32_t (&g)[2], float (&c)[4]) {
      const float2 low = unpacked(g[0]), high = unpacked(g[1]);
      const float of_g[4] = {low.x, low.y, high.x, high.y};
      controller.template through_tanh<at_end>(s.cursor.step, ends, m, n, of_g, c, through_a[m]);
      ARU_UNROLL
      for (int half = 0; half < 2; ++half) {
        uint32_t word[1];
        pack<form>(c[2 * half], c[2 * half + 1], word);
        du[m][n][half] = word[0];
      }
    };
    if constexpr (K::in_groups) {
      const auto weights = GroupMatrix::at(controller.weights, tiles * 128, 128);
      ARU_UNROLL
      for (int m = 0; m < 2; ++m) {
        float c[tiles][4];
        load_v(m, v[m]);
        group_pin(c);
        group_begin();
        multiply_in_groups<form>(c, v[m], weights);
        group_commit();
        exchange_operands(m, of_v, of_a, last[m], g[m]);
        group_wait();
        group_pin(c);
        ARU_UNROLL
        for (int n = 0; n < tiles; ++n) column_tile(m, n, g[m][n], c[n]);
      }
    } else {
      ARU_UNROLL
      for (int m = 0; m < 2; ++m) {
        load_v(m, v[m]);
        exchange_operands(m, of_v, of_a, last[m], g[m]);
      }
      ARU_UNROLL
      for (int n = 0; n < tiles; ++n) {
        float c[1][2][4] = {};
        controller.add_product(n, v, c);
        column_tile(0, n, g[0][n], c[0][0]);
        column_tile(1, n, g[1][n], c[0][1]);
      }
    }
    float da = s.da;
    ARU_UNROLL
    for (int m = 0; m < 2; ++m) da += own_share(through_a[m], m);
    return da;
  }

  // Adds V^T A to the sums, after the warps have stored their rows.  finished() and another barrier come before they
  // store again.
  ARU_METHOD void share(const Backward& p, int v) {
    if constexpr (K::sums_in_groups)
      share_in_groups(p, v);
    else
      share_in_block(p, v);
  }
  ARU_METHOD void finished() {
    if constexpr (K::sums_in_groups) {
      group_wait();
      group_pin(sums);
    }
  }
  ARU_METHOD void finish(const Backward& p) {
    finished();
    park(p);
  }
  // Stores the sums in device memory, and loads them back; code in between may use their registers.
  ARU_METHOD void park(const Backward& p) const {
    each_sum(p, [&](float* at, int n, int e) { *at = sums[n][e]; });
  }
  ARU_METHOD void take_back(const Backward& p) {
    ARU_UNROLL
    for (int e = 0; e < 4 * tiles; ++e) sums[e / 4][e % 4] = 0;
    each_sum(p, [&](const float* at, int n, int e) { sums[n][e] = *at; });
  }

 private:
  // V of row tile m as an operand.
  ARU_METHOD void load_v(int m, uint32_t (&v)[k_tiles][4][1]) const {
    ARU_UNROLL
    for (int e = 0; e < 2 * tiles; ++e) v[e / 4][e % 4][0] = du[m][e / 2][e % 2];
  }
  // Stores V of row tile m, loads the state and stores A in its memory.  of_v, of_a: the lane's words of both.
  ARU_METHOD void exchange_operands(int m, uint32_t* of_v, uint32_t* of_a, const uint32_t (&last)[2],
                                    uint32_t (&g)[tiles][2]) const {
    const int q = thread_index() & 3;
    ARU_UNROLL
    for (int e = 0; e < 2 * tiles; ++e) {
      const int at = (2 * m + e % 2) * rows_words + e / 2 * 32;
      of_v[at] = du[m][e / 2][e % 2];
      g[e / 2][e % 2] = of_a[at];
    }
    ARU_UNROLL
    for (int e = 0; e < 2 * tiles; ++e) {
      const float2 pair = unpacked(g[e / 2][e % 2]);
      uint32_t word[1];
      pack<form>(pair.x, pair.y, word);
      of_a[(2 * m + e % 2) * rows_words + e / 2 * 32] = e / 2 == tiles - 1 && q == 3 ? last[e % 2] : word[0];
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
    // Beyond the last column tile any tile will do: it makes rows of the sum that nothing reads.
    const int left_tile = 2 * units + matrix % 2 < tiles ? 2 * units + matrix % 2 : 0;
    constexpr int tile_bytes = 2 * rows_words * 4;
    const int left_rows = matrix / 2, right_rows = matrix % 2;  // which 8 rows
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
  // Calls action(address in device memory, column tile, accumulator) for each of the lane's sums.
  template <class Action> ARU_METHOD void each_sum(const Backward& p, const Action& action) const {
    const int lane = opaque(thread_index()) & 31;
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

}  // namespace cuda
}  // namespace aru
