// The rows of a warp: which sequence and neuron each lane has, and the units in its columns.
//
// A pair of row tiles is 32 rows, and each lane owns one of them for everything element-wise: with r = lane / 4, lane
// 4r + 2m + half owns row r + 8 half of tile m.  The four lanes 4r ... 4r + 3, a quad, own four neighbouring neurons of
// a sequence, which are rows r and r + 8 of both tiles.
#pragma once

#include "functions.cuh"
#include "prim.cuh"
#include "tiling.h"

namespace aru {
namespace cuda {

// Row e of a block's batch tile: neuron i of its slice in sequence b of the tile.
struct Row {
  bool inside;  // whether the block has more than e rows
  int b, i;
  int index;  // b * H + i in the whole batch; -1 if there is no such sequence or neuron

  ARU_DEVICE Row of(int e, const Sizes& z, const Tiling& t, int rows, int first_b, int first_i) {
    Row r;
    r.inside = e < rows;
    r.b = r.inside ? e / t.slice : 0;
    r.i = r.inside ? e % t.slice : 0;
    const bool valid = r.inside && first_b + r.b < z.B && first_i + r.i < z.H;
    r.index = valid ? (first_b + r.b) * z.H + first_i + r.i : -1;
    return r;
  }
};

// The rows of a lane's accumulators: the four neurons of its quad.
struct PairRows {
  int first;  // Row::index of the first
  int count;  // valid ones

  ARU_DEVICE PairRows of(const Sizes& z, const Tiling& t, int rows, int first_b, int first_i) {
    const Row r = Row::of(opaque(thread_index()) & ~3, z, t, rows, first_b, first_i);
    const int left = z.H - first_i - r.i;
    return {r.index, r.index < 0 ? 0 : left < 4 ? left : 4};
  }
  // Row::index of row r (half = 0) or r + 8 of row tile m; -1 if there is none.
  ARU_METHOD int index(int m, int half) const { return 2 * m + half < count ? first + 2 * m + half : -1; }
};

// The units of a lane's two columns of a column tile; G or more where a column has none.
struct UnitPair {
  int first, second;

  ARU_DEVICE UnitPair of(int column_tile, int G) {
    const int q = opaque(thread_index()) & 3, column = 8 * column_tile;
    if (spreads(G) && column_tile == G / 8) return {column + q, G};
    return {column + 2 * q, column + 2 * q + 1};
  }
};

// The lane's numbers of one row of a matrix [B * H][G] in column tiles 2k and 2k + 1, within the range of the state.
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

}  // namespace cuda
}  // namespace aru
