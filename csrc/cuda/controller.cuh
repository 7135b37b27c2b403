// The controller of 16 neurons (rows) at a time, in the registers of a warp.
//
// State, pre-activations and gradients are accumulators of the matrix unit, c[column tile][4] (mma() in
// prim_products.cuh).  They become the operand of the next product without an exchange between lanes (operand_of() in
// products.cuh).  A warp takes its two row tiles side by side or one after the other; every lane finds n and s of its
// own row in the accumulators of its quad (rows.cuh).
#pragma once

#include "arguments.h"
#include "functions.cuh"
#include "kept_state.cuh"
#include "products.cuh"
#include "rows.cuh"
#include "traits.cuh"

namespace aru {
namespace cuda {

// The power of two that brings the largest magnitude of a matrix to [2^14, 2^15), where float16's 11 bits reach from
// that down to 2^-29 of it.
struct PowerOfTwo {
  float scale, inverse;

  // All lanes of a warp call it.
  ARU_DEVICE PowerOfTwo of(const float* matrix, int count) {
    constexpr int bias = 127, wanted = bias + 14, most = 126;  // exponents; both powers are normal numbers
    const int lane = thread_index() & 31;
    float largest = 0;
    for (int e = lane; e < count; e += 32) {
      const float magnitude = matrix[e] < 0 ? -matrix[e] : matrix[e];
      if (magnitude > largest) largest = magnitude;
    }
    ARU_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) {
      const float other = shuffle(largest, lane ^ distance);
      if (other > largest) largest = other;
    }
    int exponent = wanted - int(bits_of_float(largest) >> 23);
    if (exponent > most) exponent = most;
    return {float_of_bits(uint32_t(bias + exponent) << 23), float_of_bits(uint32_t(bias - exponent) << 23)};
  }
};

// The weights in shared memory.
template <class K> struct ControllerOperands {
  static constexpr Form form = K::state_form;
  static constexpr int words = K::state_words;
  // W_gg^T as fragments [column tile][k tile], or for groups of warps [8 k][column tile]; then W_gc^T with n and s in
  // alternate columns, fragments [k tile].
  uint2* products;
  float4* input;  // [column tile][q]: w_ag of the columns 2q, 2q+1, then b_g of both
  float bias_n, bias_s;
  float unscale_gg, unscale_gc;  // of W_gg g and W_gc g, if K::scales_weights

  ARU_DEVICE ControllerOperands pack(const ControllerWeights& w, int G, uint8_t* shared) {
    uint2* products = reinterpret_cast<uint2*>(shared);
    float4* input = reinterpret_cast<float4*>(products + (K::tiles + 1) * K::k_tiles * words * 32);
    PowerOfTwo gg_scale{}, gc_scale{};
    if constexpr (K::scales_weights) {
      gg_scale = PowerOfTwo::of(w.weight_gg, G * G);
      gc_scale = PowerOfTwo::of(w.weight_gc, 2 * G);
    }
    const auto packed = [](float x, const PowerOfTwo& s) { return within<form>(K::scales_weights ? x * s.scale : x); };
    // k and n are columns of the accumulators.
    const auto gg = [&](int k, int n) {
      const int from = unit_of(k, G), to = unit_of(n, G);
      return from < G && to < G ? packed(w.weight_gg[to * G + from], gg_scale) : 0.f;
    };
    if constexpr (K::in_groups)
      pack_for_groups<form>(products, K::tiles, K::k_tiles, gg);
    else
      pack_fragments<form>(products, K::tiles, K::k_tiles, gg);
    pack_fragments<form>(products + K::tiles * K::k_tiles * words * 32, 1, K::k_tiles, [&](int k, int n) {
      const int from = unit_of(k, G);
      return from < G ? packed(w.weight_gc[(n & 1) * G + from], gc_scale) : 0.f;
    });
    for (int e = thread_index(); e < K::tiles * 4; e += block_threads()) {
      const int j = unit_of(2 * e, G), l = unit_of(2 * e + 1, G);
      input[e] = make_float4(j < G ? w.weight_ag[j] : 0.f, l < G ? w.weight_ag[l] : 0.f, j < G ? w.bias_g[j] : 0.f,
                             l < G ? w.bias_g[l] : 0.f);
    }
    return {products, input, w.bias_c[0], w.bias_c[1], gg_scale.inverse, gc_scale.inverse};
  }

  // column_tile: `tiles` is that of W_gc^T.
  ARU_METHOD void load(int column_tile, int k_tile, uint32_t (&b)[2][words]) const {
    load_fragment<form>(products + (column_tile * K::k_tiles + k_tile) * words * 32, thread_index() & 31, b);
  }

  // An element of W_gg g, from the product with the packed weights.
  ARU_METHOD float of_gg(float product) const { return K::scales_weights ? product * unscale_gg : product; }
  // n or s, from the sum that begin_read_out() began with this bias, or with 0.
  ARU_METHOD float of_gc(float sum, float bias) const { return K::scales_weights ? sum * unscale_gc + bias : sum; }
};

// Accumulators of two column tiles from a lane's numbers of rows r and r + 8.
ARU_DEVICE void from_rows(const float4& low, const float4& high, float (&left)[4], float (&right)[4]) {
  left[0] = low.x, left[1] = low.y, left[2] = high.x, left[3] = high.y;
  right[0] = low.z, right[1] = low.w, right[2] = high.z, right[3] = high.w;
}

// The state of 16 rows between two steps: the operand of the next product, or float32 where the operand is longer.
template <class K> struct ControllerState {
  static constexpr Form form = K::state_form;
  static constexpr int tiles = K::tiles, words = K::state_words;
  static constexpr bool packed = K::form != Form::split;
  uint32_t packed_g[packed ? K::k_tiles : 1][4][words];
  float g[packed ? 1 : 2 * K::k_tiles][4];

  // Sets k tile k from the accumulators of its two column tiles.
  ARU_METHOD void set(int k, const float (&left)[4], const float (&right)[4]) {
    if constexpr (packed) {
      operand_of<form>(left, right, packed_g[k]);
    } else {
      ARU_UNROLL
      for (int j = 0; j < 4; ++j) g[2 * k][j] = left[j], g[2 * k + 1][j] = right[j];
    }
  }
  // Sets all k tiles from the kept pairs of rows r and r + 8.
  ARU_METHOD void set_kept(const KeptPair<K::form> (&rows)[2][tiles]) {
    ARU_UNROLL
    for (int k = 0; k < K::k_tiles; ++k) {
      KeptPair<K::form> pair[2][2] = {};
      ARU_UNROLL
      for (int e = 0; e < 4; ++e)
        if (2 * k + e / 2 < tiles) pair[e / 2][e % 2] = rows[e % 2][2 * k + e / 2];
      if constexpr (keeps_half(K::form)) {
        ARU_UNROLL
        for (int e = 0; e < 4; ++e) packed_g[k][e][0] = pair[e / 2][e % 2];
      } else {
        const float left[4] = {pair[0][0].x, pair[0][0].y, pair[0][1].x, pair[0][1].y};
        const float right[4] = {pair[1][0].x, pair[1][0].y, pair[1][1].x, pair[1][1].y};
        set(k, left, right);
      }
    }
  }
  ARU_METHOD void operand(int k, uint32_t (&a)[4][words]) const {
    if constexpr (packed) {
      ARU_UNROLL
      for (int j = 0; j < 4; ++j) {
        ARU_UNROLL
        for (int p = 0; p < words; ++p) a[j][p] = packed_g[k][j][p];
      }
    } else {
      operand_of<form>(g[2 * k], g[2 * k + 1], a);
    }
  }
  // The lane's pair in column tile n of row r (high = 0) or r + 8, to be kept.
  ARU_METHOD KeptPair<K::form> to_keep(int n, int high) const {
    if constexpr (keeps_half(K::form)) {
      return packed_g[n / 2][n % 2 * 2 + high][0];
    } else if constexpr (packed) {
      const auto& pair = packed_g[n / 2][n % 2 * 2 + high];
      return make_float2(float_of_bits(pair[0]), float_of_bits(pair[1]));
    } else {
      return make_float2(g[n][2 * high], g[n][2 * high + 1]);
    }
  }
};

// The operands of a product with the states of `rows` row tiles.
template <class K, int rows> struct StateOperands {
  static constexpr Form form = K::state_form;
  uint32_t g[rows][K::k_tiles][4][K::state_words];

  ARU_DEVICE StateOperands of(const ControllerState<K> (&state)[rows]) {
    StateOperands o;
    ARU_UNROLL
    for (int m = 0; m < rows; ++m) {
      ARU_UNROLL
      for (int k = 0; k < K::k_tiles; ++k) state[m].operand(k, o.g[m][k]);
    }
    return o;
  }
  // c += W_gg g in the column tiles 2j and, if it exists, 2j + 1.  Loads each fragment of the weights once for all
  // rows.
  ARU_METHOD void add_product(const ControllerOperands<K>& w, int j, float (&c)[2][rows][4]) const {
    ARU_UNROLL
    for (int k = 0; k < K::k_tiles; ++k) {
      uint32_t b[2][2][K::state_words];
      ARU_UNROLL
      for (int side = 0; side < 2; ++side)
        if (2 * j + side < K::tiles) w.load(2 * j + side, k, b[side]);
      ARU_UNROLL
      for (int term = 0; term < instructions_of(form); ++term) {
        ARU_UNROLL
        for (int e = 0; e < 2 * rows; ++e) {
          const int side = e / rows, m = e % rows;
          if (2 * j + side < K::tiles) multiply_term<form>(term, c[side][m], g[m][k], b[side], K::whole(k));
        }
      }
    }
  }
};

// W_gg g of all column tiles, which a step can compute before it knows a.  The result is available after finished().
template <class K, int rows> struct ControllerProduct {
  float c[rows][K::tiles][4];

  ARU_METHOD void start(const ControllerOperands<K>& w, const ControllerState<K> (&state)[rows]) {
    if constexpr (K::in_groups) {
      const auto weights = GroupMatrix::at(w.products, K::tiles * 128, 128);
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) group_pin(c[m]);
      group_begin();
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) multiply_in_groups<K::state_form>(c[m], state[m].packed_g, weights);
      group_commit();
    } else {
      const auto operands = StateOperands<K, rows>::of(state);
      ARU_UNROLL
      for (int j = 0; j < K::k_tiles; ++j) {
        float both[2][rows][4] = {};
        operands.add_product(w, j, both);
        ARU_UNROLL
        for (int e = 0; e < 8 * rows; ++e) {
          const int side = e / (4 * rows), m = e / 4 % rows;
          if (2 * j + side < K::tiles) c[m][2 * j + side][e % 4] = both[side][m][e % 4];
        }
      }
    }
  }
  ARU_METHOD void finished() {
    if constexpr (K::in_groups) {
      group_wait();
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) group_pin(c[m]);
    }
  }
  // Column tiles 2j and 2j + 1, as controller_finish() takes them.
  ARU_METHOD void operator()(int j, float (&both)[2][rows][4]) const {
    ARU_UNROLL
    for (int e = 0; e < 8 * rows; ++e) {
      const int side = e / (4 * rows), m = e / 4 % rows;
      if (2 * j + side < K::tiles) both[side][m][e % 4] = c[m][2 * j + side][e % 4];
    }
  }
};

// The rest of the step: the next state from pre-activations a[tile][0] (row r) and a[tile][1] (row r + 8).
// product(j, c) adds W_gg g of column tiles 2j and 2j + 1 to c = 0.  after(j) is called when k tile j of `next` is set.
// half: the odd columns of the last column tile have no units.
template <class K, bool half = false, int rows, class Product, class After>
ARU_DEVICE void controller_finish(const ControllerOperands<K>& w, const float (&a)[rows][2], const Product& product,
                                  ControllerState<K> (&next)[rows], const After& after) {
  ARU_UNROLL
  for (int j = 0; j < K::k_tiles; ++j) {
    float c[2][rows][4] = {}, g[2][rows][4] = {};
    product(j, c);
    ARU_UNROLL
    for (int side = 0; side < 2; ++side) {
      if (2 * j + side >= K::tiles) continue;
      const float4 v = w.input[(2 * j + side) * 4 + (thread_index() & 3)];
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) {
        ARU_UNROLL
        for (int e = 0; e < 4; ++e) {
          if (half && 2 * j + side == K::tiles - 1 && e % 2 == 1) continue;
          g[side][m][e] = controller_tanh<K::form>((e & 1 ? v.y : v.x) * a[m][e / 2] + (e & 1 ? v.w : v.z) +
                                                   w.of_gg(c[side][m][e]));
        }
      }
    }
    ARU_UNROLL
    for (int m = 0; m < rows; ++m) next[m].set(j, g[0][m], g[1][m]);
    after(j);
  }
}

// n and s of row tiles, ns[tile] = n and s of row r, n and s of row r + 8: their biases, or 0 where
// ControllerOperands::of_gc() adds them.
template <class K, int rows> ARU_DEVICE void begin_read_out(const ControllerOperands<K>& w, float (&ns)[rows][4]) {
  ARU_UNROLL
  for (int m = 0; m < rows; ++m) {
    ns[m][0] = ns[m][2] = K::scales_weights ? 0.f : w.bias_n;
    ns[m][1] = ns[m][3] = K::scales_weights ? 0.f : w.bias_s;
  }
}

// Adds k tile k's share of W_gc g.
template <class K, int rows>
ARU_DEVICE void read_out(const ControllerOperands<K>& w, const ControllerState<K> (&state)[rows], int k,
                         float (&ns)[rows][4]) {
  uint32_t b[2][K::state_words];
  w.load(K::tiles, k, b);
  ARU_UNROLL
  for (int m = 0; m < rows; ++m) {
    uint32_t g[4][K::state_words];
    state[m].operand(k, g);
    multiply<K::state_form>(ns[m], g, b, K::whole(k));
  }
}

}  // namespace cuda
}  // namespace aru
