// The controller of 16 neurons (rows) at a time, in the registers of a warp.
//
// State, pre-activations and gradients are accumulators of the matrix unit, c[column tile][4] (see mma in prim.cuh).
// The operand of the next product comes from them without an exchange between lanes (operands_of).
//
// A pair of row tiles makes 32 rows, and each lane owns one of them for everything element-wise: lane 4r + 2m + half
// has row r + 8 half of tile m.  So a quad of lanes owns four neighbouring elements, which are the rows r and r + 8 of
// both tiles, and every lane finds n and s of two of these in the quad's own accumulators.
#pragma once

#define ARU_ISA cuda
#include "../aru_math.h"
#include "sequence.h"
#include "split.cuh"

namespace aru {
namespace cuda {

// The weights in shared memory.
template <int parts, int tiles> struct ControllerOperands {
  static constexpr int k_tiles = (tiles + 1) / 2;
  uint2* products;  // [column tile][k tile][parts][lane]: W_gg^T, then W_gc^T with n and s in alternate columns
  float4* input;    // [column tile][q]: w_ag and b_g of the columns 2q, 2q+1
  float bias_n, bias_s;

  ARU_DEVICE ControllerOperands pack(const ControllerWeights& w, int G, uint8_t* shared) {
    uint2* products = reinterpret_cast<uint2*>(shared);
    float4* input = reinterpret_cast<float4*>(products + (tiles + 1) * k_tiles * parts * 32);
    pack_fragments<parts>(products, tiles + 1, k_tiles, [&](int k, int n) {
      if (k >= G) return 0.f;
      if (n >= 8 * tiles) return w.weight_gc[(n & 1) * G + k];
      return n < G ? w.weight_gg[n * G + k] : 0.f;
    });
    for (int e = thread_index(); e < tiles * 4; e += block_threads()) {
      const int j = 2 * e;
      input[e] = make_float4(j < G ? w.weight_ag[j] : 0.f, j + 1 < G ? w.weight_ag[j + 1] : 0.f,
                             j < G ? w.bias_g[j] : 0.f, j + 1 < G ? w.bias_g[j + 1] : 0.f);
    }
    return {products, input, w.bias_c[0], w.bias_c[1]};
  }

  ARU_METHOD const uint2* fragment(int column_tile, int k_tile) const {
    return products + (column_tile * k_tiles + k_tile) * parts * 32;
  }
};

template <int parts> ARU_DEVICE float controller_tanh(float x) {
  if constexpr (parts == 1) return tanh_approximate(x);
  return aru::cuda::tanh<float>(x);
}

// One step of 16 rows whose pre-activations are a[0] (row r) and a[1] (row r + 8): the next g in place of g, and
// ns = n and s of row r, n and s of row r + 8.
template <int parts, int tiles>
ARU_DEVICE void controller_step(const ControllerOperands<parts, tiles>& w, const float (&a)[2], float (&g)[tiles][4],
                                float (&ns)[4]) {
  constexpr int k_tiles = ControllerOperands<parts, tiles>::k_tiles;
  const int lane = thread_index() & 31, q = lane & 3;
  uint32_t operand[k_tiles][parts][4];
  operands_of<parts, tiles>(g, operand);
  ARU_UNROLL
  for (int n = 0; n < tiles; ++n) {
    const float4 v = w.input[n * 4 + q];
    float c[4] = {v.x * a[0] + v.z, v.y * a[0] + v.w, v.x * a[1] + v.z, v.y * a[1] + v.w};
    ARU_UNROLL
    for (int k = 0; k < k_tiles; ++k) {
      uint32_t b[parts][2];
      load_fragment<parts>(w.fragment(n, k), lane, b);
      multiply<parts>(c, operand[k], b);
    }
    ARU_UNROLL
    for (int j = 0; j < 4; ++j) g[n][j] = controller_tanh<parts>(c[j]);
  }
  operands_of<parts, tiles>(g, operand);
  ns[0] = ns[2] = w.bias_n;
  ns[1] = ns[3] = w.bias_s;
  ARU_UNROLL
  for (int k = 0; k < k_tiles; ++k) {
    uint32_t b[parts][2];
    load_fragment<parts>(w.fragment(tiles, k), lane, b);
    multiply<parts>(ns, operand[k], b);
  }
}

// Rows of kept state, see kept_row.  index: slot * B * H + row; half: stored as float16.  high: 0 for row r of a tile, 1
// for row r + 8.
template <int tiles>
ARU_DEVICE void store_state(void* kept, int half, size_t index, int G, int high, const float (&g)[tiles][4]) {
  const size_t at = index * kept_row(G) + 4 * (thread_index() & 3);
  ARU_UNROLL
  for (int k = 0; k < (tiles + 1) / 2; ++k) {
    if (16 * k >= G) break;
    const bool right = 2 * k + 1 < tiles;
    const int n = right ? 2 * k + 1 : 0;
    const float4 v = make_float4(g[2 * k][2 * high], g[2 * k][2 * high + 1], right ? g[n][2 * high] : 0.f,
                                 right ? g[n][2 * high + 1] : 0.f);
    if (half)
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(kept) + at + 16 * k) =
          make_uint2(pack_f16(v.x, v.y), pack_f16(v.z, v.w));
    else
      *reinterpret_cast<float4*>(static_cast<float*>(kept) + at + 16 * k) = v;
  }
}

// Zero beyond the row's end.
template <int tiles>
ARU_DEVICE void load_state(const void* kept, int half, size_t index, int G, int high, float (&g)[tiles][4]) {
  const size_t at = index * kept_row(G) + 4 * (thread_index() & 3);
  ARU_UNROLL
  for (int k = 0; k < (tiles + 1) / 2; ++k) {
    float4 v = make_float4(0, 0, 0, 0);
    if (16 * k < G) {
      if (half) {
        const uint2 w = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(kept) + at + 16 * k);
        unpack_f16(w.x, v.x, v.y);
        unpack_f16(w.y, v.z, v.w);
      } else {
        v = *reinterpret_cast<const float4*>(static_cast<const float*>(kept) + at + 16 * k);
      }
    }
    g[2 * k][2 * high] = v.x, g[2 * k][2 * high + 1] = v.y;
    if (2 * k + 1 < tiles) {
      const int n = 2 * k + 1 < tiles ? 2 * k + 1 : 0;
      g[n][2 * high] = v.z, g[n][2 * high + 1] = v.w;
    }
  }
}

// element(column, value) for the columns below G of a row of a tile.
template <int tiles, class Element>
ARU_DEVICE void for_columns(int G, int high, float (&c)[tiles][4], const Element& element) {
  ARU_UNROLL
  for (int n = 0; n < tiles; ++n) {
    ARU_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int column = n * 8 + 2 * (thread_index() & 3) + j;
      if (column < G) element(column, c[n][2 * high + j]);
    }
  }
}

// A row of a block's batch tile: element e of the block is neuron i of its slice, in sequence b of the tile.
struct Row {
  bool inside;  // of the block's rows
  int b, i;
  int index;  // b * H + i of the whole batch; -1 where there is no such sequence or neuron

  ARU_DEVICE Row of(int e, const Sizes& z, const Tiling& t, int rows, int first_b, int first_i) {
    Row r;
    r.inside = e < rows;
    r.b = r.inside ? e / t.slice : 0;
    r.i = r.inside ? e % t.slice : 0;
    const bool some = r.inside && first_b + r.b < z.B && first_i + r.i < z.H;
    r.index = some ? (first_b + r.b) * z.H + first_i + r.i : -1;
    return r;
  }
};

}  // namespace cuda
}  // namespace aru
