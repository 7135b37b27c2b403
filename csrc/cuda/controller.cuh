// The controller of 16 neurons (rows) at a time, in the registers of a warp.
//
// State, pre-activations and gradients are accumulators of the matrix unit, c[column tile][4] (see mma in prim.cuh).
// The operand of the next product comes from them without an exchange between lanes (operand_of).
//
// A pair of row tiles makes 32 rows, and each lane owns one of them for everything element-wise: lane 4r + 2m + half
// has row r + 8 half of tile m.  So a quad of lanes owns four neighbouring elements, which are the rows r and r + 8 of
// both tiles, and every lane finds n and s of two of these in the quad's own accumulators.
#pragma once

#include <type_traits>

#define ARU_ISA cuda
#include "../aru_math.h"
#include "products.cuh"
#include "sequence.h"

namespace aru {
namespace cuda {

// float16 ends at 65504, and infinity times 0 would be NaN.
template <Form form> ARU_DEVICE float within(float x) {
  if constexpr (form != Form::fp16) return x;
  constexpr float most = 65504;
  return x > most ? most : x < -most ? -most : x;
}

// Whether groups of warps make the products, where the GPU has such.
ARU_ANYWHERE constexpr bool uses_groups(Form form) { return warp_groups && form == Form::bf16; }

// The weights in shared memory.
template <Form form, int tiles> struct ControllerOperands {
  static constexpr Form in_products = state_form(form);
  static constexpr int k_tiles = (tiles + 1) / 2, words = words_of(in_products);
  static constexpr bool in_groups = uses_groups(form) && tiles > 0;  // warps multiply by W_gg four at a time
  // W_gg^T as fragments [column tile][k tile], or for groups of warps [8 k][column tile]; then W_gc^T with n and s in
  // alternate columns, fragments [k tile].
  uint2* products;
  float4* input;  // [column tile][q]: w_ag of the columns 2q, 2q+1, then b_g
  float bias_n, bias_s;

  ARU_DEVICE ControllerOperands pack(const ControllerWeights& w, int G, uint8_t* shared) {
    uint2* products = reinterpret_cast<uint2*>(shared);
    float4* input = reinterpret_cast<float4*>(products + (tiles + 1) * k_tiles * words * 32);
    const auto gg = [&](int k, int n) { return k < G && n < G ? within<in_products>(w.weight_gg[n * G + k]) : 0.f; };
    if constexpr (in_groups)
      pack_for_groups<in_products>(products, tiles, k_tiles, gg);
    else
      pack_fragments<in_products>(products, tiles, k_tiles, gg);
    pack_fragments<in_products>(products + tiles * k_tiles * words * 32, 1, k_tiles, [&](int k, int n) {
      return k < G ? within<in_products>(w.weight_gc[(n & 1) * G + k]) : 0.f;
    });
    for (int e = thread_index(); e < tiles * 4; e += block_threads()) {
      const int j = 2 * e;
      input[e] = make_float4(j < G ? w.weight_ag[j] : 0.f, j + 1 < G ? w.weight_ag[j + 1] : 0.f,
                             j < G ? w.bias_g[j] : 0.f, j + 1 < G ? w.bias_g[j + 1] : 0.f);
    }
    return {products, input, w.bias_c[0], w.bias_c[1]};
  }

  ARU_METHOD void load(int column_tile, int k_tile, uint32_t (&b)[2][words]) const {
    load_fragment<in_products>(products + (column_tile * k_tiles + k_tile) * words * 32, thread_index() & 31, b);
  }
};

// Whether the special function unit is accurate enough: its tanh has 11 bits, as many as the longest operand that it
// becomes, a TF32 number; its other functions are good to 22 bits.
ARU_ANYWHERE constexpr bool special_functions(Form form) { return form != Form::split; }

template <Form form> ARU_DEVICE float controller_tanh(float x) {
  if constexpr (special_functions(form)) return tanh_approximate(x);
  return aru::cuda::tanh<float>(x);
}

// What gamma is made of, by that unit (aru_math.h).
struct SpecialFunctions {
  ARU_DEVICE float exp_of_negative(float y) { return exp2_approximate(y * constants<float>::log2_e); }
  ARU_DEVICE float log1p_of_unit(float e) { return log2_approximate(1.f + e) * 0.6931471805599453f; }
  ARU_DEVICE float reciprocal(float x) { return reciprocal_approximate(x); }
  ARU_DEVICE float quotient(float x, float y) { return x * reciprocal_approximate(y); }
};
template <Form form> using GammaFunctions = std::conditional_t<special_functions(form), SpecialFunctions, Accurate<float>>;

// What a lane keeps of a row in kept_tiles(form) k tiles: four numbers of each.
template <Form form> struct KeptChunk {
  float4 v;
  ARU_METHOD float4 unpacked(int) const { return v; }
};
// Pairs of float16, their halves exchanged: words that are an operand's could not be neighbours in the registers of a
// store, too, and the compiler would move the operands at every product.
template <> struct KeptChunk<Form::bf16> {
  uint4 v;
  ARU_METHOD uint2 pairs(int tile) const { return tile ? make_uint2(v.z, v.w) : make_uint2(v.x, v.y); }
  // Of the first or the second k tile.
  ARU_METHOD float4 unpacked(int tile) const {
    const uint2 p = pairs(tile);
    float4 f;
    unpack_f16(p.x, f.y, f.x);
    unpack_f16(p.y, f.w, f.z);
    return f;
  }
};
ARU_DEVICE uint32_t exchange_halves(uint32_t pair) { return pair >> 16 | pair << 16; }

// Accumulators of two column tiles from a lane's numbers of rows r and r + 8.
ARU_DEVICE void from_rows(const float4& low, const float4& high, float (&left)[4], float (&right)[4]) {
  left[0] = low.x, left[1] = low.y, left[2] = high.x, left[3] = high.y;
  right[0] = low.z, right[1] = low.w, right[2] = high.z, right[3] = high.w;
}

// The state of 16 rows between two steps: what the next product needs of it, the operand itself where that is no longer
// than float32.
template <Form form, int tiles> struct ControllerState {
  static constexpr Form in_products = state_form(form);
  static constexpr int k_tiles = (tiles + 1) / 2, words = words_of(in_products);
  static constexpr bool packed = form != Form::split;
  static constexpr int chunk_tiles = kept_tiles(form), chunks = ceil_div(k_tiles, chunk_tiles);
  uint32_t packed_g[packed ? k_tiles : 1][4][words];
  float g[packed ? 1 : 2 * k_tiles][4];

  ARU_METHOD void set(int k, const float (&left)[4], const float (&right)[4]) {
    if constexpr (packed) {
      operand_of<in_products>(left, right, packed_g[k]);
    } else {
      ARU_UNROLL
      for (int j = 0; j < 4; ++j) g[2 * k][j] = left[j], g[2 * k + 1][j] = right[j];
    }
  }
  // As set(), of all k tiles, from the chunks that were kept of rows r and r + 8.
  ARU_METHOD void set_kept(const KeptChunk<form> (&low)[chunks], const KeptChunk<form> (&high)[chunks]) {
    ARU_UNROLL
    for (int k = 0; k < k_tiles; ++k) {
      if constexpr (keeps_half(form)) {
        const uint2 x = low[k / 2].pairs(k % 2), y = high[k / 2].pairs(k % 2);
        packed_g[k][0][0] = exchange_halves(x.x), packed_g[k][1][0] = exchange_halves(y.x);
        packed_g[k][2][0] = exchange_halves(x.y), packed_g[k][3][0] = exchange_halves(y.y);
      } else {
        float left[4], right[4];
        from_rows(low[k].v, high[k].v, left, right);
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
      operand_of<in_products>(g[2 * k], g[2 * k + 1], a);
    }
  }
  // The lane's chunk in row r (high = 0) or r + 8, to be kept.
  ARU_METHOD KeptChunk<form> to_keep(int chunk, int high) const {
    const int k = chunk * chunk_tiles;
    if constexpr (keeps_half(form)) {
      const auto pair = [&](int j) {
        return k + j / 2 < k_tiles ? exchange_halves(packed_g[k + j / 2][j % 2 * 2 + high][0]) : 0;
      };
      return {make_uint4(pair(0), pair(1), pair(2), pair(3))};
    } else if constexpr (packed) {
      const auto number = [&](int j, int p) { return float_of_bits(packed_g[k][2 * j + high][p]); };
      return {make_float4(number(0, 0), number(0, 1), number(1, 0), number(1, 1))};
    } else {
      const float *left = g[2 * k] + 2 * high, *right = g[2 * k + 1] + 2 * high;
      return {make_float4(left[0], left[1], right[0], right[1])};
    }
  }
};

// The operands of a product with the states of `rows` tiles of 16 rows.
template <Form form, int tiles, int rows> struct StateOperands {
  static constexpr int k_tiles = (tiles + 1) / 2;
  uint32_t g[rows][k_tiles][4][words_of(state_form(form))];

  ARU_DEVICE StateOperands of(const ControllerState<form, tiles> (&state)[rows]) {
    StateOperands o;
    ARU_UNROLL
    for (int m = 0; m < rows; ++m) {
      ARU_UNROLL
      for (int k = 0; k < k_tiles; ++k) state[m].operand(k, o.g[m][k]);
    }
    return o;
  }
  // c += W_gg g in the column tiles 2j and, if there is one, 2j + 1.  A fragment of the weights is loaded once for all
  // rows.
  ARU_METHOD void multiplied(const ControllerOperands<form, tiles>& w, int j, float (&c)[2][rows][4]) const {
    ARU_UNROLL
    for (int k = 0; k < k_tiles; ++k) {
      uint32_t b[2][2][words_of(state_form(form))];
      ARU_UNROLL
      for (int side = 0; side < 2; ++side)
        if (2 * j + side < tiles) w.load(2 * j + side, k, b[side]);
      ARU_UNROLL
      for (int term = 0; term < instructions_of(form); ++term) {
        ARU_UNROLL
        for (int e = 0; e < 2 * rows; ++e) {
          const int side = e / rows, m = e % rows;
          if (2 * j + side < tiles)
            multiply_term<state_form(form)>(term, c[side][m], g[m][k], b[side], 2 * k + 1 < tiles);
        }
      }
    }
  }
};

// W_gg g, what a step can do before it knows a, of all column tiles: it is there after finished().
template <Form form, int tiles, int rows> struct ControllerProduct {
  using Operands = ControllerOperands<form, tiles>;
  static constexpr int k_tiles = (tiles + 1) / 2;
  float c[rows][tiles][4];

  ARU_METHOD void start(const Operands& w, const ControllerState<form, tiles> (&state)[rows]) {
    if constexpr (Operands::in_groups) {
      const auto weights = GroupMatrix::at(w.products, tiles * 128, 128);
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) group_pin(c[m]);
      group_begin();
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) multiply_in_groups<Operands::in_products>(c[m], state[m].packed_g, weights);
      group_commit();
    } else {
      const auto operands = StateOperands<form, tiles, rows>::of(state);
      ARU_UNROLL
      for (int j = 0; j < k_tiles; ++j) {
        float both[2][rows][4] = {};
        operands.multiplied(w, j, both);
        ARU_UNROLL
        for (int e = 0; e < 8 * rows; ++e) {
          const int side = e / (4 * rows), m = e / 4 % rows;
          if (2 * j + side < tiles) c[m][2 * j + side][e % 4] = both[side][m][e % 4];
        }
      }
    }
  }
  ARU_METHOD void finished() {
    if constexpr (Operands::in_groups) {
      group_wait();
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) group_pin(c[m]);
    }
  }
  // Column tiles 2j and 2j + 1, as controller_finish() asks for them.
  ARU_METHOD void operator()(int j, float (&both)[2][rows][4]) const {
    ARU_UNROLL
    for (int e = 0; e < 8 * rows; ++e) {
      const int side = e / (4 * rows), m = e / 4 % rows;
      if (2 * j + side < tiles) both[side][m][e % 4] = c[m][2 * j + side][e % 4];
    }
  }
};

// The rest of the step, with pre-activations a[tile][0] (row r) and a[tile][1] (row r + 8): the next state.
// product(j, c) adds W_gg g to c = 0 as multiplied() does; after(j) comes when k tile j of `next` is there.
template <Form form, int tiles, int rows, class Product, class After>
ARU_DEVICE void controller_finish(const ControllerOperands<form, tiles>& w, const float (&a)[rows][2],
                                  const Product& product, ControllerState<form, tiles> (&next)[rows],
                                  const After& after) {
  ARU_UNROLL
  for (int j = 0; j < (tiles + 1) / 2; ++j) {
    float c[2][rows][4] = {}, g[2][rows][4] = {};
    product(j, c);
    ARU_UNROLL
    for (int side = 0; side < 2; ++side) {
      if (2 * j + side >= tiles) continue;
      const float4 v = w.input[(2 * j + side) * 4 + (thread_index() & 3)];
      ARU_UNROLL
      for (int m = 0; m < rows; ++m) {
        ARU_UNROLL
        for (int e = 0; e < 4; ++e)
          g[side][m][e] = controller_tanh<form>((e & 1 ? v.y : v.x) * a[m][e / 2] + (e & 1 ? v.w : v.z) + c[side][m][e]);
      }
    }
    ARU_UNROLL
    for (int m = 0; m < rows; ++m) next[m].set(j, g[0][m], g[1][m]);
    after(j);
  }
}

// n and s before any k tile's share: ns[tile] = n and s of row r, n and s of row r + 8.
template <Form form, int tiles, int rows>
ARU_DEVICE void begin_read_out(const ControllerOperands<form, tiles>& w, float (&ns)[rows][4]) {
  ARU_UNROLL
  for (int m = 0; m < rows; ++m) {
    ns[m][0] = ns[m][2] = w.bias_n;
    ns[m][1] = ns[m][3] = w.bias_s;
  }
}

// Adds k tile k's.
template <Form form, int tiles, int rows>
ARU_DEVICE void read_out(const ControllerOperands<form, tiles>& w, const ControllerState<form, tiles> (&state)[rows],
                         int k, float (&ns)[rows][4]) {
  using Operands = ControllerOperands<form, tiles>;
  uint32_t b[2][Operands::words];
  w.load(tiles, k, b);
  ARU_UNROLL
  for (int m = 0; m < rows; ++m) {
    uint32_t g[4][Operands::words];
    state[m].operand(k, g);
    multiply<Operands::in_products>(ns[m], g, b, 2 * k + 1 < tiles);
  }
}

// This lane's part of the kept state of its quad, in one slot.  Void: void or const void.
template <Form form, class Void> struct KeptState {
  static constexpr bool reads = std::is_const<Void>::value;
  using Chunk = std::conditional_t<reads, const KeptChunk<form>, KeptChunk<form>>;
  Chunk* first;  // null where there is no such quad
  int chunks;

  ARU_DEVICE KeptState of(Void* kept, int slot, const Sizes& z, int quad) {
    const int chunks = kept_chunks(form, z.G);
    Chunk* all = static_cast<Chunk*>(kept) + slot * kept_slot_chunks(z, form);
    return {quad < 0 ? nullptr : all + size_t(unsigned(quad / quads_together * 4 * chunks)) * 32 + place(quad), chunks};
  }
  // Among the lanes of the quads that lie together.
  ARU_DEVICE int place(int quad) { return quad % quads_together * 4 + (thread_index() & 3); }

  ARU_METHOD Chunk* at(int neuron, int chunk) const { return first + (neuron * chunks + chunk) * 32; }
  // The chunks of a neuron of the quad; nothing beyond its end, zero where there is no quad.
  template <int count> ARU_METHOD void load(int neuron, KeptChunk<form> (&g)[count]) const {
    ARU_UNROLL
    for (int j = 0; j < count; ++j) {
      g[j] = KeptChunk<form>{};
      if (first && j < chunks) g[j] = *at(neuron, j);
    }
  }
  ARU_METHOD void store(int neuron, int chunk, const KeptChunk<form>& g) const {
    if (first && chunk < chunks) *at(neuron, chunk) = g;
  }
  // Fetches all of it: a line of 128 bytes has two quads, whose eight lanes share the pieces of 512 bytes.
  ARU_METHOD void prefetch_all(int quad) const {
    if (!first) return;
    for (int piece = place(quad) & 7; piece < 4 * chunks; piece += 8) prefetch(first + piece * 32);
  }
};

// The same numbers of a row of a matrix [B * H][G], to be a state.
template <Form form> ARU_DEVICE float4 load_row(const float* matrix, size_t row, int G, int k) {
  const int j = 16 * k + 2 * (thread_index() & 3);
  const float* from = matrix + row * G;
  const auto number = [&](int i) { return i < G ? within<state_form(form)>(from[i]) : 0.f; };
  return make_float4(number(j), number(j + 1), number(j + 8), number(j + 9));
}
ARU_DEVICE void store_row(float* matrix, size_t row, int G, int k, const float4& g) {
  const int j = 16 * k + 2 * (thread_index() & 3);
  float* to = matrix + row * G;
  if (j < G) to[j] = g.x;
  if (j + 1 < G) to[j + 1] = g.y;
  if (j + 8 < G) to[j + 8] = g.z;
  if (j + 9 < G) to[j + 9] = g.w;
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

// The rows of a lane's accumulators, [tile of the pair][half], as Row::index: the neurons of a quad.
struct PairRows {
  int index[2][2];
  int quad;  // of all quads of the batch; -1 where there is none


  ARU_DEVICE PairRows of(const Sizes& z, const Tiling& t, int rows, int first_b, int first_i) {
    PairRows p;
    ARU_UNROLL
    for (int m = 0; m < 2; ++m) {
      ARU_UNROLL
      for (int high = 0; high < 2; ++high)
        p.index[m][high] = Row::of((thread_index() & ~3) + 2 * m + high, z, t, rows, first_b, first_i).index;
    }
    const Row first = Row::of(thread_index() & ~3, z, t, rows, first_b, first_i);
    p.quad = first.index < 0 ? -1 : (first_b + first.b) * quads_of_sequence(z) + (first_i + first.i) / 4;
    return p;
  }
};

}  // namespace cuda
}  // namespace aru
