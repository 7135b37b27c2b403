// The recurrent product of one step: this block's slice of W_hh h (or W_hh^T da) for the sequences of its group.
//
// Neurons are rows of the matrix unit's A operand, sequences columns of B.  W_hh's slice stays in shared memory in the
// order of A's fragments.  The k of a tile are permuted, the same in A and B, so that a lane's four lie side by side.
#pragma once

#include "products.cuh"
#include "sequence.h"

namespace aru {
namespace cuda {

// The slice as fragments: [row tile][k tile][word of a pair][lane] the words of the lane's four pairs.
template <Form form, bool transposed, class Arguments>
ARU_DEVICE void pack_recurrent(const Arguments& p, uint4* to, int rank) {
  constexpr int words = words_of(form);
  const int H = p.sizes.H, first = rank * p.tiling.slice;
  for (int e = thread_index(); e < p.shape.row_tiles * p.shape.k_tiles * 32; e += block_threads()) {
    const int lane = e & 31, k = e / 32 % p.shape.k_tiles * 16 + 4 * (lane & 3);
    float w[2][4];
    ARU_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int i = e / 32 / p.shape.k_tiles * 16 + half * 8 + lane / 4, row = first + i;
      ARU_UNROLL
      for (int j = 0; j < 4; ++j) {
        const bool some = i < p.tiling.slice && row < H && k + j < H;
        w[half][j] = some ? p.weight_hh[transposed ? size_t(k + j) * H + row : size_t(row) * H + k + j] : 0.f;
      }
    }
    uint32_t a[4][words];
    pack<form>(w[0][0], w[0][1], a[0]);
    pack<form>(w[1][0], w[1][1], a[1]);
    pack<form>(w[0][2], w[0][3], a[2]);
    pack<form>(w[1][2], w[1][3], a[3]);
    ARU_UNROLL
    for (int q = 0; q < words; ++q)
      to[(e / 32 * words + q) * 32 + lane] = make_uint4(a[0][q], a[1][q], a[2][q], a[3][q]);
  }
}

// What a warp takes of a product: row tiles, each from k tile `begin` to `end`.
struct RecurrentShare {
  int first_tile, tiles, stride, part, begin, end;

  ARU_DEVICE RecurrentShare of(const Tiling& t, const Shape& s) {
    const int warp = thread_index() / 32;
    // Either a row tile is shared by several warps, or a warp takes one row tile after another.
    const int part = s.k_splits > 1 ? warp / s.row_tiles : 0;
    const bool some = part < s.k_splits;
    return {s.k_splits > 1 ? warp % s.row_tiles : warp,
            some ? s.row_tiles : 0,
            s.k_splits > 1 ? s.row_tiles : t.warps,
            part,
            s.k_tiles * part / s.k_splits,
            s.k_tiles * (part + 1) / s.k_splits};
  }
};

// Partial sums [k split][sequence][neuron of the slice] of the product with the vector in `state`.
template <Form form>
ARU_DEVICE void recurrent_product(const RecurrentShare& share, const Tiling& t, const Shape& s, const uint4* weight,
                                  const uint32_t* state, float* sums) {
  constexpr int words = words_of(form), chains = 2;  // of products that wait for one another
  const int lane = thread_index() & 31, q = lane & 3, r = lane / 4;
  const int column = r < t.batch ? r : 0;  // columns beyond the batch are computed and not used
  const int word_stride = t.batch * s.state_words;
  const uint32_t* first_h = state + column * s.state_words + share.begin * 8 + 2 * q;
  for (int tile = share.first_tile; tile < share.tiles; tile += share.stride) {
    const uint4* w = weight + (tile * s.k_tiles + share.begin) * words * 32 + lane;
    const uint32_t* h = first_h;
    float c[chains][4] = {};
    const auto add = [&](float(&to)[4]) {
      uint32_t a[4][words], b[2][words];
      ARU_UNROLL
      for (int p = 0; p < words; ++p) {
        const uint4 v = w[p * 32];
        a[0][p] = v.x, a[1][p] = v.y, a[2][p] = v.z, a[3][p] = v.w;
        const uint2 u = *reinterpret_cast<const uint2*>(h + p * word_stride);
        b[0][p] = u.x, b[1][p] = u.y;
      }
      multiply<form>(to, a, b);
      w += words * 32;
      h += 8;
    };
    int left = share.end - share.begin;
    ARU_UNROLL_BY_2
    for (; left >= chains; left -= chains) {
      ARU_UNROLL
      for (int chain = 0; chain < chains; ++chain) add(c[chain]);
    }
    if (left > 0) add(c[0]);
    ARU_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int b = 2 * q + (j & 1);
      if (b < t.batch) sums[(share.part * t.batch + b) * s.sum_stride + tile * 16 + r + (j / 2) * 8] = c[0][j] + c[1][j];
    }
  }
}

// The sum of the partial sums of one element, which lies at `at` = b * sum_stride + i in each.
ARU_DEVICE float recurrent_sum(const Tiling& t, const Shape& s, const float* sums, int at) {
  float sum = 0;
  for (int part = 0; part < s.k_splits; ++part, at += t.batch * s.sum_stride) sum += sums[at];
  return sum;
}

}  // namespace cuda
}  // namespace aru
