// The controller of 16 neurons (rows) at a time, in the registers of a warp.
//
// State, pre-activations and gradients are accumulators of the matrix unit, c[column tile][4] (see mma in prim.cuh).
// The operand of the next product comes from them without an exchange between lanes (operand_of).
//
// A pair of row tiles makes 32 rows, and each lane owns one of them for everything element-wise: lane 4r + 2m + half
// has row r + 8 half of tile m.  So a quad of lanes owns four neighbouring elements, which are the rows r and r + 8 of
// both tiles, and every lane finds n and s of two of these in the quad's own accumulators.
#pragma once

#define ARU_ISA cuda
#include "../aru_math.h"
#include "products.cuh"
#include "sequence.h"

namespace aru {
namespace cuda {

// The weights in shared memory.
template <Form form, int tiles> struct ControllerOperands {
  static constexpr int k_tiles = (tiles + 1) / 2;
  uint2* products;  // fragments [column tile][k tile]: W_gg^T, then W_gc^T with n and s in alternate columns
  float4* input;    // [column tile][q]: w_ag and b_g of the columns 2q, 2q+1
  float bias_n, bias_s;

  ARU_DEVICE ControllerOperands pack(const ControllerWeights& w, int G, uint8_t* shared) {
    uint2* products = reinterpret_cast<uint2*>(shared);
    float4* input = reinterpret_cast<float4*>(products + (tiles + 1) * k_tiles * words_of(form) * 32);
    pack_fragments<form>(products, tiles + 1, k_tiles, [&](int k, int n) {
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
    return products + (column_tile * k_tiles + k_tile) * words_of(form) * 32;
  }
};

// As accurate as the operand that it becomes: 11 bits are a TF32 number's.
template <Form form> ARU_DEVICE float controller_tanh(float x) {
  if constexpr (form != Form::split) return tanh_approximate(x);
  return aru::cuda::tanh<float>(x);
}

// The state of 16 rows between two steps: what the next product needs of it, the operand itself where that is no longer
// than float32.
template <Form form, int tiles> struct ControllerState {
  static constexpr int k_tiles = (tiles + 1) / 2;
  static constexpr bool packed = form != Form::split;
  uint32_t packed_g[packed ? k_tiles : 1][4][words_of(form)];
  float g[packed ? 1 : 2 * k_tiles][4];

  ARU_METHOD void set(int k, const float (&left)[4], const float (&right)[4]) {
    if constexpr (packed) {
      operand_of<form>(left, right, packed_g[k]);
    } else {
      ARU_UNROLL
      for (int j = 0; j < 4; ++j) g[2 * k][j] = left[j], g[2 * k + 1][j] = right[j];
    }
  }
  ARU_METHOD void operand(int k, uint32_t (&a)[4][words_of(form)]) const {
    if constexpr (packed) {
      ARU_UNROLL
      for (int j = 0; j < 4; ++j) {
        ARU_UNROLL
        for (int p = 0; p < words_of(form); ++p) a[j][p] = packed_g[k][j][p];
      }
    } else {
      operand_of<form>(g[2 * k], g[2 * k + 1], a);
    }
  }
};

// Of `rows` tiles of 16 rows, W_gg g + b_g: what a step can do before it knows a.  A fragment of the weights is loaded
// once for all tiles.
template <Form form, int tiles, int rows>
ARU_DEVICE void controller_product(const ControllerOperands<form, tiles>& w,
                                   const ControllerState<form, tiles> (&state)[rows], float (&c)[rows][tiles][4]) {
  constexpr int k_tiles = ControllerOperands<form, tiles>::k_tiles;
  const int lane = thread_index() & 31, q = lane & 3;
  uint32_t operand[rows][k_tiles][4][words_of(form)], b[2][words_of(form)];
  ARU_UNROLL
  for (int m = 0; m < rows; ++m) {
    ARU_UNROLL
    for (int k = 0; k < k_tiles; ++k) state[m].operand(k, operand[m][k]);
  }
  ARU_UNROLL
  for (int n = 0; n < tiles; ++n) {
    const float4 v = w.input[n * 4 + q];
    ARU_UNROLL
    for (int m = 0; m < rows; ++m) c[m][n][0] = c[m][n][2] = v.z, c[m][n][1] = c[m][n][3] = v.w;
    ARU_UNROLL
    for (int k = 0; k < k_tiles; ++k) {
      load_fragment<form>(w.fragment(n, k), lane, b);
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) multiply<form>(c[m][n], operand[m][k], b);
    }
  }
}

struct EmitNothing {
  ARU_METHOD void operator()(int, int, const float (&)[4], const float (&)[4]) const {}
};

// The rest of the step, with pre-activations a[tile][0] (row r) and a[tile][1] (row r + 8): the next state.
// emit(tile, k, left, right) gets the next g of two column tiles in float32.
template <Form form, int tiles, int rows, class Emit>
ARU_DEVICE void controller_finish(const ControllerOperands<form, tiles>& w, const float (&a)[rows][2],
                                  const float (&c)[rows][tiles][4], ControllerState<form, tiles> (&state)[rows],
                                  const Emit& emit) {
  constexpr int k_tiles = ControllerOperands<form, tiles>::k_tiles;
  const int q = thread_index() & 3;
  ARU_UNROLL
  for (int to = 0; to < k_tiles; ++to) {
    float g[2][rows][4] = {};
    ARU_UNROLL
    for (int side = 0; side < 2; ++side) {
      const int n = 2 * to + side;
      if (n >= tiles) continue;
      const float4 v = w.input[n * 4 + q];
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) {
        ARU_UNROLL
        for (int j = 0; j < 4; ++j)
          g[side][m][j] = controller_tanh<form>((j & 1 ? v.y : v.x) * a[m][j / 2] + c[m][n][j]);
      }
    }
    ARU_UNROLL
    for (int m = 0; m < rows; ++m) {
      state[m].set(to, g[0][m], g[1][m]);
      emit(m, to, g[0][m], g[1][m]);
    }
  }
}

// ns[tile] = n and s of row r, n and s of row r + 8.
template <Form form, int tiles, int rows>
ARU_DEVICE void controller_read_out(const ControllerOperands<form, tiles>& w,
                                    const ControllerState<form, tiles> (&state)[rows], float (&ns)[rows][4]) {
  constexpr int k_tiles = ControllerOperands<form, tiles>::k_tiles;
  const int lane = thread_index() & 31;
  ARU_UNROLL
  for (int m = 0; m < rows; ++m) {
    ns[m][0] = ns[m][2] = w.bias_n;
    ns[m][1] = ns[m][3] = w.bias_s;
  }
  ARU_UNROLL
  for (int k = 0; k < k_tiles; ++k) {
    uint32_t b[2][words_of(form)];
    load_fragment<form>(w.fragment(tiles, k), lane, b);
    ARU_UNROLL
    for (int m = 0; m < rows; ++m) {
      uint32_t read[4][words_of(form)];
      state[m].operand(k, read);
      multiply<form>(ns[m], read, b);
    }
  }
}

// A row of kept state (kept_row), as the lanes q of a quad share it: four numbers of each k tile.
template <Form form> struct KeptQuad {
  float4 v;
  ARU_METHOD float4 unpacked() const { return v; }
};
template <> struct KeptQuad<Form::bf16> {  // float16
  uint2 v;
  ARU_METHOD float4 unpacked() const {
    float4 f;
    unpack_f16(v.x, f.x, f.y);
    unpack_f16(v.y, f.z, f.w);
    return f;
  }
};

// This lane's part of a row, of k tile 0; that of k tile k is 4k further.  index: slot * B * H + row.
template <Form form> ARU_DEVICE KeptQuad<form>* kept_quad(void* kept, size_t index, int G) {
  return static_cast<KeptQuad<form>*>(kept) + index * (kept_row(G) / 4) + (thread_index() & 3);
}
template <Form form> ARU_DEVICE const KeptQuad<form>* kept_quad(const void* kept, size_t index, int G) {
  return static_cast<const KeptQuad<form>*>(kept) + index * (kept_row(G) / 4) + (thread_index() & 3);
}

// Two column tiles (k tile k) of row r of a tile (high = 0) or row r + 8.
template <Form form>
ARU_DEVICE void store_state(KeptQuad<form>* to, int G, int k, int high, const float (&left)[4],
                            const float (&right)[4]) {
  const int j = high ? 2 : 0;
  if (16 * k >= G) return;
  if constexpr (keeps_half(form))
    to[4 * k].v = make_uint2(pack_f16(left[j], left[j + 1]), pack_f16(right[j], right[j + 1]));
  else
    to[4 * k].v = make_float4(left[j], left[j + 1], right[j], right[j + 1]);
}

// Zero beyond the row's end.
template <Form form> ARU_DEVICE KeptQuad<form> load_state(const KeptQuad<form>* from, int G, int k) {
  const KeptQuad<form> zero = {};
  return 16 * k < G ? from[4 * k] : zero;
}

// Fetches a row, of which each lane of the quad names a quarter.
template <Form form> ARU_DEVICE void prefetch_state(const void* kept, size_t index, int G) {
  const int row = kept_row(G) / 4;
  prefetch(static_cast<const KeptQuad<form>*>(kept) + index * row + (thread_index() & 3) * (row / 4));
}

// The same numbers of a row of a matrix [B * H][G].
ARU_DEVICE float4 load_row(const float* matrix, size_t row, int G, int k) {
  const int j = 16 * k + 2 * (thread_index() & 3);
  const float* from = matrix + row * G;
  return make_float4(j < G ? from[j] : 0.f, j + 1 < G ? from[j + 1] : 0.f, j + 8 < G ? from[j + 8] : 0.f,
                     j + 9 < G ? from[j + 9] : 0.f);
}
ARU_DEVICE void store_row(float* matrix, size_t row, int G, int k, int high, const float (&left)[4],
                          const float (&right)[4]) {
  const int j = 16 * k + 2 * (thread_index() & 3);
  float* to = matrix + row * G;
  if (j < G) to[j] = high ? left[2] : left[0];
  if (j + 1 < G) to[j + 1] = high ? left[3] : left[1];
  if (j + 8 < G) to[j + 8] = high ? right[2] : right[0];
  if (j + 9 < G) to[j + 9] = high ? right[3] : right[1];
}

// Accumulators of two column tiles from what the above load for rows r and r + 8.
ARU_DEVICE void from_rows(const float4& low, const float4& high, float (&left)[4], float (&right)[4]) {
  left[0] = low.x, left[1] = low.y, left[2] = high.x, left[3] = high.y;
  right[0] = low.z, right[1] = low.w, right[2] = high.z, right[3] = high.w;
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

// The rows of a lane's accumulators, [tile of the pair][half], as Row::index.
struct PairRows {
  int index[2][2];

  ARU_DEVICE PairRows of(const Sizes& z, const Tiling& t, int rows, int first_b, int first_i) {
    PairRows p;
    ARU_UNROLL
    for (int m = 0; m < 2; ++m) {
      ARU_UNROLL
      for (int high = 0; high < 2; ++high)
        p.index[m][high] = Row::of((thread_index() & ~3) + 2 * m + high, z, t, rows, first_b, first_i).index;
    }
    return p;
  }
};

}  // namespace cuda
}  // namespace aru
