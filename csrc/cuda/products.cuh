// Products of float32 matrices by the matrix unit, whose operands are narrower.  An operand consists of pairs of
// neighbouring numbers, words_of(form) words a pair; sums are float32.
//
//   form   torch.get_float32_matmul_precision()  a pair                                     bits of a number
//   bf16   "medium"                              two bfloat16 in a word                     8
//   tf32   "high"                                a word for each                            11
//   split  "highest"                             three words of two bfloat16, to be added   24
//   fp16   the controller's state at "medium"    two float16 in a word                      11
//          and in `mixed`, whose other products are tf32
//
// A product of split numbers is the sum of the products of parts p and q with p + q < 3.
#pragma once

#include "forms.h"
#include "prim.cuh"

namespace aru {
namespace cuda {

// Packs two numbers into the words of a pair.
template <Form form> ARU_DEVICE void pack(float x, float y, uint32_t (&pair)[words_of(form)]) {
  static_assert(form != Form::mixed, "its products are of two other forms");
  if constexpr (form == Form::fp16) {
    pair[0] = pack_f16(x, y);
  } else if constexpr (form == Form::tf32) {
    pair[0] = round_to_tf32(x);
    pair[1] = round_to_tf32(y);
  } else {
    ARU_UNROLL
    for (int p = 0; p < words_of(form); ++p) {  // each part takes what the parts before it leave
      pair[p] = pack_bf16(x, y);
      x -= float_of_bits(pair[p] << 16);
      y -= float_of_bits(pair[p] & 0xffff0000u);
    }
  }
}

// Instruction `term` of the instructions_of(form) that make c (16 x 8) += a (16 x 16) b (16 x 8); small terms come
// first.  The pairs of a and b are in the order of mma() in prim_products.cuh.  Without `whole` the product takes the
// first 8 k.
//
// Instructions that add to the same sum wait for each other, so a caller with several sums issues one term of all sums
// before the next term.
template <Form form>
ARU_DEVICE void multiply_term(int term, float (&c)[4], const uint32_t (&a)[4][words_of(form)],
                              const uint32_t (&b)[2][words_of(form)], bool whole) {
  if constexpr (form == Form::tf32) {
    // mma_tf32() takes k = q and q + 4 from a lane, which has the pair 2q and 2q + 1 instead.  Their order does not
    // matter as long as a and b have the same.
    if (term == 0 || whole)
      mma_tf32(c, {a[2 * term][0], a[2 * term + 1][0], a[2 * term][1], a[2 * term + 1][1]}, {b[term][0], b[term][1]});
  } else {
    constexpr bool half_precision = form == Form::fp16;
    constexpr int order = words_of(form) - 1;
    const int parts = term < 3 ? order : term < 5 ? order - 1 : 0;  // p + q of the parts p of a and q of b
    const int p = term < 3 ? term : term < 5 ? term - 3 : 0, q = parts - p;
    if (whole)
      mma<half_precision>(c, {a[0][p], a[1][p], a[2][p], a[3][p]}, {b[0][q], b[1][q]});
    else
      mma_8<half_precision>(c, {a[0][p], a[1][p]}, b[0][q]);
  }
}

// c[j] += a b[j]
template <Form form, int count>
ARU_DEVICE void multiply(float (&c)[count][4], const uint32_t (&a)[4][words_of(form)],
                         const uint32_t (&b)[count][2][words_of(form)], bool whole = true) {
  ARU_UNROLL
  for (int term = 0; term < instructions_of(form); ++term) {
    ARU_UNROLL
    for (int j = 0; j < count; ++j) multiply_term<form>(term, c[j], a, b[j], whole);
  }
}
template <Form form>
ARU_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4][words_of(form)], const uint32_t (&b)[2][words_of(form)],
                         bool whole = true) {
  ARU_UNROLL
  for (int term = 0; term < instructions_of(form); ++term) multiply_term<form>(term, c, a, b, whole);
}

// Transposes an 8 x 8 matrix: a lane holds the pair of row r, columns 2q and 2q+1, before and after.
template <Form form> ARU_DEVICE void transpose_pairs(uint32_t (&pair)[words_of(form)]) {
  if constexpr (form == Form::tf32) {  // the low and the high halves of all words, each a matrix of 16-bit numbers
    const uint32_t low = transpose((pair[0] & 0xffffu) | pair[1] << 16);
    const uint32_t high = transpose(pair[0] >> 16 | (pair[1] & 0xffff0000u));
    pair[0] = (low & 0xffffu) | high << 16;
    pair[1] = low >> 16 | (high & 0xffff0000u);
  } else {
    ARU_UNROLL
    for (int p = 0; p < words_of(form); ++p) pair[p] = transpose(pair[p]);
  }
}

// The A operand of one k tile from the 16 x 8 accumulators of two neighbouring column tiles.  No lane needs numbers of
// another lane.
template <Form form>
ARU_DEVICE void operand_of(const float (&left)[4], const float (&right)[4], uint32_t (&a)[4][words_of(form)]) {
  pack<form>(left[0], left[1], a[0]);
  pack<form>(left[2], left[3], a[1]);
  pack<form>(right[0], right[1], a[2]);
  pack<form>(right[2], right[3], a[3]);
}

// Loads a fragment of B from shared memory: [word of a pair][lane], each with the words of the lane's two pairs.
template <Form form> ARU_DEVICE void load_fragment(const uint2* from, int lane, uint32_t (&b)[2][words_of(form)]) {
  ARU_UNROLL
  for (int p = 0; p < words_of(form); ++p) {
    const uint2 v = from[p * 32 + lane];
    b[0][p] = v.x;
    b[1][p] = v.y;
  }
}

// Packs a matrix B[k][n] = element(k, n) as fragments: [column tile][k tile][word of a pair][lane].
template <Form form, class Element>
ARU_DEVICE void pack_fragments(uint2* to, int column_tiles, int k_tiles, const Element& element) {
  constexpr int words = words_of(form);
  for (int e = thread_index(); e < column_tiles * k_tiles * 32; e += block_threads()) {
    const int lane = e & 31, k = e / 32 % k_tiles * 16 + 2 * (lane & 3), n = e / 32 / k_tiles * 8 + lane / 4;
    uint32_t low[words], high[words];
    pack<form>(element(k, n), element(k + 1, n), low);
    pack<form>(element(k + 8, n), element(k + 9, n), high);
    ARU_UNROLL
    for (int p = 0; p < words; ++p) to[(e / 32 * words + p) * 32 + lane] = make_uint2(low[p], high[p]);
  }
}

// Packs B for groups of warps: 8 x 8 matrices [8 k][column tile] with rows of 8 k.
template <Form form, class Element>
ARU_DEVICE void pack_for_groups(uint2* to, int column_tiles, int k_tiles, const Element& element) {
  uint32_t* words = reinterpret_cast<uint32_t*>(to);
  for (int e = thread_index(); e < k_tiles * 2 * column_tiles * 32; e += block_threads()) {
    const int k = e / 32 / column_tiles * 8 + 2 * (e & 3), n = e / 32 % column_tiles * 8 + e % 32 / 4;
    uint32_t pair[words_of(form)];
    pack<form>(element(k, n), element(k + 1, n), pair);
    words[e] = pair[0];
  }
  publish_to_groups();
}

// c = a b by groups of warps, over all k tiles; b is packed by pack_for_groups().
template <Form form, int tiles, int k_tiles>
ARU_DEVICE void multiply_in_groups(float (&c)[tiles][4], const uint32_t (&a)[k_tiles][4][1], const GroupMatrix& b) {
  constexpr bool half_precision = form == Form::fp16;
  ARU_UNROLL
  for (int k = 0; k < k_tiles; ++k) {
    const uint32_t words[4] = {a[k][0][0], a[k][1][0], a[k][2][0], a[k][3][0]};
    const auto from = b.from(k * 2 * tiles * 128);
    if (k == 0)
      group_mma<half_precision, false>(c, words, from);
    else
      group_mma<half_precision, true>(c, words, from);
  }
}

}  // namespace cuda
}  // namespace aru
