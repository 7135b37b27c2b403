// The recurrent product of one step: this block's slice of W_hh h (or W_hh^T da) for the sequences of its group.
//
// Neurons are rows of the matrix unit's A operand, and sequences are columns of B.  W_hh's slice stays in shared memory
// in the order of A's fragments.  The k of a tile are permuted in A and B alike, so that a lane's four k are adjacent.
#pragma once

#include "products.cuh"
#include "shared_layout.h"

namespace aru {
namespace cuda {

// Packs the slice as fragments [row tile][k tile][word of a pair][lane], each with the words of the lane's four pairs.
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
        const bool valid = i < p.tiling.slice && row < H && k + j < H;
        w[half][j] = valid ? p.weight_hh[transposed ? size_t(k + j) * H + row : size_t(row) * H + k + j] : 0.f;
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

// A warp's share of a product: `k_tiles` k tiles from `begin` on, of row tiles first_tile, first_tile + stride() ...
struct RecurrentShare {
  int first_tile, part, begin, k_tiles;

  ARU_DEVICE RecurrentShare of(const Shape& s) {
    const int warp = warp_index();
    // Either a row tile is shared by several warps, or a warp takes one row tile after another.
    if (s.k_splits == 1) return {warp, 0, 0, s.k_tiles};
    const int part = warp / s.row_tiles, begin = s.k_tiles * part / s.k_splits;
    const int end = s.k_tiles * (part + 1) / s.k_splits;
    return {part < s.k_splits ? warp % s.row_tiles : s.row_tiles, part, begin, end - begin};
  }
  ARU_DEVICE int stride(const Tiling& t, const Shape& s) { return s.k_splits > 1 ? s.row_tiles : t.warps; }
};

// Fragments of W_hh for the k tiles of a warp's share that are loaded side by side: `most`, or half as many if a pair
// takes several words.
template <Form form, int most> struct RecurrentWeights {
  static constexpr int words = words_of(form), k_tiles = words == 1 ? most : most / 2;
  uint4 fragment[k_tiles][words];

  // Loads the fragments from `w` on, at most `left` k tiles.
  ARU_METHOD void load(const uint4* w, int left) {
    ARU_UNROLL
    for (int k = 0; k < k_tiles; ++k) {
      ARU_UNROLL
      for (int p = 0; p < words; ++p)
        if (k < left) fragment[k][p] = w[(k * words + p) * 32];
    }
  }
  // Loads the first ones of the warp's share, before the exchanged vector has arrived.
  ARU_METHOD void load_first(const RecurrentShare& share, const Shape& s, const uint4* weight) {
    if (share.first_tile < s.row_tiles) load(first(share, s, weight, share.first_tile), share.k_tiles);
  }
  ARU_DEVICE const uint4* first(const RecurrentShare& share, const Shape& s, const uint4* weight, int tile) {
    return weight + (tile * s.k_tiles + share.begin) * words * 32 + (thread_index() & 31);
  }
};

// Stores the partial sums [k split][sequence][neuron of the slice] of the product with the vector in `state`.  loaded:
// the weights after load_first().
template <Form form, int most>
ARU_DEVICE void recurrent_product(const RecurrentShare& share, const Tiling& t, const Shape& s, const uint4* weight,
                                  const uint32_t* state, float* sums, RecurrentWeights<form, most>& loaded) {
  constexpr int words = words_of(form), at_once = RecurrentWeights<form, most>::k_tiles;
  const int lane = thread_index() & 31, q = lane & 3, r = lane / 4;
  const int column = r < t.batch ? r : 0;  // columns beyond the batch are computed, but not used
  const int word_stride = t.batch * s.state_words;
  const uint32_t* first_h = state + column * s.state_words + share.begin * 8 + 2 * q;
  for (int tile = share.first_tile; tile < s.row_tiles; tile += share.stride(t, s)) {
    const uint4* w = loaded.first(share, s, weight, tile);
    if (tile != share.first_tile) loaded.load(w, share.k_tiles);
    const uint32_t* h = first_h;
    float c[2][4] = {};  // k tiles alternate, because a product waits for the previous one in the same sum
    ARU_UNROLL_BY((at_once % 2 ? 2 : 1))
    for (int left = share.k_tiles; left > 0; left -= at_once) {
      uint32_t b[at_once][2][words];
      ARU_UNROLL
      for (int k = 0; k < at_once; ++k) {
        ARU_UNROLL
        for (int p = 0; p < words; ++p) {
          if (k >= left) continue;
          const uint2 u = *reinterpret_cast<const uint2*>(h + k * 8 + p * word_stride);
          b[k][0][p] = u.x, b[k][1][p] = u.y;
        }
      }
      ARU_UNROLL
      for (int k = 0; k < at_once; ++k) {
        uint32_t a[4][words];
        ARU_UNROLL
        for (int p = 0; p < words; ++p) {
          const uint4 v = loaded.fragment[k][p];
          a[0][p] = v.x, a[1][p] = v.y, a[2][p] = v.z, a[3][p] = v.w;
        }
        if (k < left) multiply<form>(c[k % 2], a, b[k]);
      }
      if constexpr (at_once % 2) {
        ARU_UNROLL
        for (int j = 0; j < 4; ++j) {
          const float other = c[0][j];
          c[0][j] = c[1][j], c[1][j] = other;
        }
      }
      w += at_once * words * 32;
      h += at_once * 8;
      loaded.load(w, left - at_once);
    }
    ARU_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int b = 2 * q + (j & 1);
      if (b < t.batch)
        sums[(share.part * t.batch + b) * s.sum_stride + tile * 16 + r + (j / 2) * 8] = c[0][j] + c[1][j];
    }
  }
}

// The sum over the k splits of one element's partial sums; `at` = b * sum_stride + i.
ARU_DEVICE float recurrent_sum(const Tiling& t, const Shape& s, const float* sums, int at) {
  constexpr int at_once = 4;
  const int stride = t.batch * s.sum_stride;
  float sum = 0;
  int first = 0;
  ARU_ROLLED
  do {
    float parts[at_once];
    ARU_UNROLL
    for (int part = 0; part < at_once; ++part) {  // loads in any case: a branch would cost more
      const bool valid = part == 0 || first + part < s.k_splits;
      const float v = sums[at + (valid ? part * stride : 0)];
      parts[part] = valid ? v : 0.f;
    }
    sum += (parts[0] + parts[1]) + (parts[2] + parts[3]);
    first += at_once;
    at += at_once * stride;
  } while (first < s.k_splits);
  return sum;
}

}  // namespace cuda
}  // namespace aru
