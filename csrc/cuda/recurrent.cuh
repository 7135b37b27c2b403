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

// Partial sums [k split][sequence][neuron of the slice] of the product with the vector in `state`.
template <Form form>
ARU_DEVICE void recurrent_product(const Tiling& t, const Shape& s, const uint4* weight, const uint32_t* state,
                                  float* sums) {
  constexpr int words = words_of(form);
  const int lane = thread_index() & 31, q = lane & 3, r = lane / 4;
  const int column = r < t.batch ? r : 0;  // columns beyond the batch are computed and not used
  for (int task = thread_index() / 32; task < s.row_tiles * s.k_splits; task += t.warps) {
    const int tile = task % s.row_tiles, part = task / s.row_tiles;
    const int end = s.k_tiles * (part + 1) / s.k_splits;
    float c[4] = {0, 0, 0, 0};
    ARU_ROLLED
    for (int k = s.k_tiles * part / s.k_splits; k < end; ++k) {
      uint32_t a[4][words], b[2][words];
      ARU_UNROLL
      for (int p = 0; p < words; ++p) {
        const uint4 w = weight[((tile * s.k_tiles + k) * words + p) * 32 + lane];
        a[0][p] = w.x, a[1][p] = w.y, a[2][p] = w.z, a[3][p] = w.w;
        const uint2 h = *reinterpret_cast<const uint2*>(state + (p * t.batch + column) * s.state_words + k * 8 + 2 * q);
        b[0][p] = h.x, b[1][p] = h.y;
      }
      multiply<form>(c, a, b);
    }
    ARU_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int b = 2 * q + (j & 1);
      if (b < t.batch) sums[(part * t.batch + b) * s.sum_stride + tile * 16 + r + (j / 2) * 8] = c[j];
    }
  }
}

// The sum of the partial sums of one element.
ARU_DEVICE float recurrent_sum(const Tiling& t, const Shape& s, const float* sums, int b, int i) {
  float sum = 0;
  for (int part = 0; part < s.k_splits; ++part) sum += sums[(part * t.batch + b) * s.sum_stride + i];
  return sum;
}

}  // namespace cuda
}  // namespace aru
