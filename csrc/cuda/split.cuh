// Products of float32 matrices by the bfloat16 matrix unit: every number is the sum of `parts` bfloat16 numbers, and the
// product that of all pairs of parts p + q < parts, accumulated in float32.
//
//   parts  torch.get_float32_matmul_precision()  pairs  relative error of a term
//   1      "medium"                              1      2^-9
//   2      "high"                                3      2^-17
//   3      "highest"                             6      2^-24
#pragma once

#include "prim.cuh"

namespace aru {
namespace cuda {

// Two numbers as the halves of `parts` words.  What a part leaves over is the next part's.
template <int parts> ARU_DEVICE void split(float x, float y, uint32_t (&words)[parts]) {
  ARU_UNROLL
  for (int p = 0; p < parts; ++p) {
    words[p] = pack_bf16(x, y);
    x -= float_of_bits(words[p] << 16);
    y -= float_of_bits(words[p] & 0xffff0000u);
  }
}

// c += a b
template <int parts>
ARU_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[parts][4], const uint32_t (&b)[parts][2]) {
  ARU_UNROLL
  for (int order = parts - 1; order >= 0; --order) {  // small terms first
    ARU_UNROLL
    for (int p = 0; p <= order; ++p) mma(c, a[p], b[order - p]);
  }
}

// The A operand of one k tile from the 16 x 8 accumulators of two neighbouring column tiles: no lane needs another's.
template <int parts>
ARU_DEVICE void operand_of(const float (&left)[4], const float (&right)[4], uint32_t (&a)[parts][4]) {
  uint32_t w[4][parts];
  split<parts>(left[0], left[1], w[0]);
  split<parts>(left[2], left[3], w[1]);
  split<parts>(right[0], right[1], w[2]);
  split<parts>(right[2], right[3], w[3]);
  ARU_UNROLL
  for (int p = 0; p < parts; ++p) {
    ARU_UNROLL
    for (int j = 0; j < 4; ++j) a[p][j] = w[j][p];
  }
}

template <int parts, int tiles>
ARU_DEVICE void operands_of(const float (&c)[tiles][4], uint32_t (&a)[(tiles + 1) / 2][parts][4]) {
  ARU_UNROLL
  for (int k = 0; k < (tiles + 1) / 2; ++k) {
    const bool right = 2 * k + 1 < tiles;
    const int n = right ? 2 * k + 1 : 0;
    const float beside[4] = {right ? c[n][0] : 0.f, right ? c[n][1] : 0.f, right ? c[n][2] : 0.f, right ? c[n][3] : 0.f};
    operand_of<parts>(c[2 * k], beside, a[k]);
  }
}

// A fragment of B from shared memory: [parts][lane] pairs of words.
template <int parts> ARU_DEVICE void load_fragment(const uint2* from, int lane, uint32_t (&b)[parts][2]) {
  ARU_UNROLL
  for (int p = 0; p < parts; ++p) {
    const uint2 v = from[p * 32 + lane];
    b[p][0] = v.x;
    b[p][1] = v.y;
  }
}

// Packs a matrix B[k][n] = element(k, n) as fragments: [column tile][k tile][parts][lane].
template <int parts, class Element>
ARU_DEVICE void pack_fragments(uint2* to, int column_tiles, int k_tiles, const Element& element) {
  for (int e = thread_index(); e < column_tiles * k_tiles * 32; e += block_threads()) {
    const int lane = e & 31, k = e / 32 % k_tiles * 16 + 2 * (lane & 3), n = e / 32 / k_tiles * 8 + lane / 4;
    uint32_t low[parts], high[parts];
    split<parts>(element(k, n), element(k + 1, n), low);
    split<parts>(element(k + 8, n), element(k + 9, n), high);
    ARU_UNROLL
    for (int p = 0; p < parts; ++p) to[(e / 32 * parts + p) * 32 + lane] = make_uint2(low[p], high[p]);
  }
}

}  // namespace cuda
}  // namespace aru
