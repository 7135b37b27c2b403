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
    // k and n are columns of the accumulators.
    const auto gg = [&](int k, int n) {
      const int from = unit_of(k, G), to = unit_of(n, G);
      return from < G && to < G ? within<in_products>(w.weight_gg[to * G + from]) : 0.f;
    };
    if constexpr (in_groups)
      pack_for_groups<in_products>(products, tiles, k_tiles, gg);
    else
      pack_fragments<in_products>(products, tiles, k_tiles, gg);
    pack_fragments<in_products>(products + tiles * k_tiles * words * 32, 1, k_tiles, [&](int k, int n) {
      const int from = unit_of(k, G);
      return from < G ? within<in_products>(w.weight_gc[(n & 1) * G + from]) : 0.f;
    });
    for (int e = thread_index(); e < tiles * 4; e += block_threads()) {
      const int j = unit_of(2 * e, G), l = unit_of(2 * e + 1, G);
      input[e] = make_float4(j < G ? w.weight_ag[j] : 0.f, l < G ? w.weight_ag[l] : 0.f, j < G ? w.bias_g[j] : 0.f,
                             l < G ? w.bias_g[l] : 0.f);
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
template <Form form>
using GammaFunctions = std::conditional_t<special_functions(form), SpecialFunctions, Accurate<float>>;

// Two neighbouring numbers of a row as they are kept.
template <Form form> using KeptPair = std::conditional_t<keeps_half(form), uint32_t, float2>;
ARU_DEVICE float2 unpacked(const float2& pair) { return pair; }
ARU_DEVICE float2 unpacked(uint32_t pair) {
  float2 f;
  unpack_f16(pair, f.x, f.y);
  return f;
}

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
  // As set(), of all k tiles, from what was kept of rows r and r + 8.
  ARU_METHOD void set_kept(const KeptPair<form> (&rows)[2][tiles]) {
    ARU_UNROLL
    for (int k = 0; k < k_tiles; ++k) {
      KeptPair<form> pair[2][2] = {};
      ARU_UNROLL
      for (int e = 0; e < 4; ++e)
        if (2 * k + e / 2 < tiles) pair[e / 2][e % 2] = rows[e % 2][2 * k + e / 2];
      if constexpr (keeps_half(form)) {
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
      operand_of<in_products>(g[2 * k], g[2 * k + 1], a);
    }
  }
  // The lane's pair in column tile n of row r (high = 0) or r + 8, to be kept.
  ARU_METHOD KeptPair<form> to_keep(int n, int high) const {
    if constexpr (keeps_half(form)) {
      return packed_g[n / 2][n % 2 * 2 + high][0];
    } else if constexpr (packed) {
      const auto& pair = packed_g[n / 2][n % 2 * 2 + high];
      return make_float2(float_of_bits(pair[0]), float_of_bits(pair[1]));
    } else {
      return make_float2(g[n][2 * high], g[n][2 * high + 1]);
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
// product(j, c) adds W_gg g to c = 0 as multiplied() does; after(j) comes when k tile j of `next` is there.  half: the
// odd columns of the last column tile have no units.
template <Form form, int tiles, int rows, bool half = false, class Product, class After>
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
        for (int e = 0; e < 4; ++e) {
          if (half && 2 * j + side == tiles - 1 && e % 2 == 1) continue;
          g[side][m][e] =
              controller_tanh<form>((e & 1 ? v.y : v.x) * a[m][e / 2] + (e & 1 ? v.w : v.z) + c[side][m][e]);
        }
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

// Where the image of a warp is in a slot.
struct Image {
  int first;  // quads of the slot before it
  // Valid quads of the warp; which of them is the lane's, and which is quad `lane % 8`: 15 for none.
  uint32_t packed;

  ARU_DEVICE Image of(const Sizes& z, const Tiling& t, int rows, int first_b, int first_i) {
    const int lane = thread_index() & 31;
    const Row own = Row::of(thread_index() & ~3, z, t, rows, first_b, first_i);
    const int sequences = z.B - first_b < t.batch ? z.B - first_b : t.batch;
    const int neurons = z.H - first_i < t.slice ? z.H - first_i : t.slice;
    const int quad = own.index < 0 ? -1 : own.b * quads_of(neurons) + own.i / 4;
    int first = 0, quads = 0, rank = 15;
    ARU_ROLLED
    for (int j = 0; j < 8; ++j) {
      const int other = int(shuffle(uint32_t(quad), 4 * j));
      if (other < 0) continue;
      if (quads == 0) first = other;
      if (j == lane / 4) rank = quads;
      ++quads;
    }
    const uint32_t copied = shuffle(uint32_t(rank), lane % 8 * 4);
    return {first_b * quads_of(z.H) + sequences * (first_i / 4) + first,
            uint32_t(quads) | uint32_t(rank) << 4 | copied << 8};
  }
  ARU_METHOD int quads() const { return int(packed & 15); }
  ARU_METHOD int rank() const { return int(packed >> 4 & 15); }
  ARU_METHOD bool some() const { return rank() < 15; }
  ARU_METHOD int copied() const { return int(packed >> 8); }
};

// Puts the lane's pairs of the column tiles below `kept`.
template <Form form, int tiles, int rows>
ARU_DEVICE void put_rows(KeptPair<form>* to, int row_stride, int tile_stride, int kept,
                         const ControllerState<form, tiles> (&state)[rows]) {
  ARU_UNROLL
  for (int row = 0; row < 2 * rows; ++row) {
    ARU_UNROLL
    for (int n = 0; n < tiles; ++n)
      if (n < kept) to[row * row_stride + n * tile_stride] = state[row / 2].to_keep(n, row % 2);
  }
}

// A number that the compiler knows.
template <int number> struct Constant {
  ARU_METHOD constexpr operator int() const { return number; }
};

// The image of a warp in one slot of the kept state (sequence.h).  Void: void or const void.
template <Form form, class Void> struct KeptState {
  using Pair = std::conditional_t<std::is_const<Void>::value, const KeptPair<form>, KeptPair<form>>;
  Pair* image;
  int all_tiles, quads;
  int tiles;  // column tiles that the lane has: none where there is no such quad
  int lane;   // its pairs' place in the first column tile

  ARU_DEVICE KeptState of(Void* kept, int slot, int64_t slot_bytes, const Image& place, int G) {
    using Byte = std::conditional_t<std::is_const<Void>::value, const uint8_t, uint8_t>;
    Byte* at = static_cast<Byte*>(kept) + slot * slot_bytes + int64_t(place.first) * kept_quad_bytes(form, G);
    const int tiles = kept_tiles(G);
    return {reinterpret_cast<Pair*>(at), tiles, place.quads(), place.some() ? tiles : 0,
            place.rank() * 4 + (thread_index() & 3)};
  }
  ARU_METHOD int bytes() const { return 16 * all_tiles * quads * kept_pair_bytes(form); }
  // action(stride, tiles) with the stride of column tiles, those of the lane: most warps have all quads, and take code
  // with constants.
  template <class Action> ARU_METHOD void strided(const Action& action) const {
    if (quads == 8)
      action(Constant<32>(), all_tiles);
    else
      action(quads * 4, tiles);
  }
  // A row's pairs; nothing beyond those that are kept.  Row 2m + high of the lane's four.
  template <int count> ARU_METHOD void load(int row, KeptPair<form> (&pairs)[count]) const {
    strided([&](auto stride, int tiles) {
      const Pair* from = image + lane + row * all_tiles * stride;
      ARU_UNROLL
      for (int n = 0; n < count; ++n) {
        pairs[n] = KeptPair<form>{};
        if (n < tiles) pairs[n] = from[n * stride];
      }
    });
  }
  // The rows from `first` on.
  template <int units, int rows>
  ARU_METHOD void store(int first, const ControllerState<form, units> (&state)[rows]) const {
    strided([&](auto stride, int tiles) {
      put_rows<form>(image + lane + first * all_tiles * stride, all_tiles * stride, stride, tiles, state);
    });
  }
  // All rows to shared memory, as they lie in the image.
  template <int units> ARU_METHOD void stage(KeptPair<form>* to, const ControllerState<form, units> (&state)[2]) const {
    put_rows<form>(to + lane, all_tiles * quads * 4, quads * 4, tiles, state);
  }
  // Fetches all of it into the second-level cache.
  ARU_METHOD void prefetch_all() const {
    constexpr int line = 128 / kept_pair_bytes(form);
    for (int e = (thread_index() & 31) * line; e < 16 * all_tiles * quads; e += 32 * line) prefetch(image + e);
  }
};

// The units of a lane's two columns of a column tile; not below G where there is none.
struct UnitPair {
  int first, second;
  ARU_DEVICE UnitPair of(int column_tile, int G) {
    const int q = anew(thread_index()) & 3, column = 8 * column_tile;
    if (spreads(G) && column_tile == G / 8) return {column + q, G};
    return {column + 2 * q, column + 2 * q + 1};
  }
};

// The same numbers of a row of a matrix [B * H][G], to be a state.
template <Form form> ARU_DEVICE float4 load_row(const float* matrix, size_t row, int G, int k) {
  const float* from = matrix + row * G;
  const auto number = [&](int i) { return i < G ? within<state_form(form)>(from[i]) : 0.f; };
  const UnitPair left = UnitPair::of(2 * k, G), right = UnitPair::of(2 * k + 1, G);
  return make_float4(number(left.first), number(left.second), number(right.first), number(right.second));
}
ARU_DEVICE void store_pair(float* matrix, size_t row, int G, int column_tile, const float2& g) {
  const UnitPair units = UnitPair::of(column_tile, G);
  float* to = matrix + row * G;
  if (units.first < G) to[units.first] = g.x;
  if (units.second < G) to[units.second] = g.y;
}

// The rows of a lane's accumulators, which are four neighbouring neurons of a sequence, as Row::index.
struct PairRows {
  int first, count;

  ARU_DEVICE PairRows of(const Sizes& z, const Tiling& t, int rows, int first_b, int first_i) {
    const Row r = Row::of(anew(thread_index()) & ~3, z, t, rows, first_b, first_i);
    const int left = z.H - first_i - r.i;
    return {r.index, r.index < 0 ? 0 : left < 4 ? left : 4};
  }
  // Of row tile m, row r (half = 0) or r + 8.
  ARU_METHOD int index(int m, int half) const { return 2 * m + half < count ? first + 2 * m + half : -1; }
};

}  // namespace cuda
}  // namespace aru
