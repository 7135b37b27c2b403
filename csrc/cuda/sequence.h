// What host and device share: the arguments of the kernels, how the work is cut, where things lie in shared memory.
//
// Rows r = (b, i) of a batch tile are cut into blocks: a group of `blocks` blocks (a cluster, or blocks that meet at a
// barrier in device memory) takes `batch` sequences through all steps, each block `slice` neurons of them; several
// groups work side by side, and each takes one batch tile after another.  A warp has 32 rows, one a lane, or none: then
// it helps with the products that all warps share.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define ARU_ANYWHERE __host__ __device__
#else
#define ARU_ANYWHERE
#endif

namespace aru {
namespace cuda {

struct Sizes {
  int T, B, H, G;  // G = 0: the static network, n and s given
};

struct Tiling {
  int cluster;  // 1: blocks of a group are a cluster; 0: they meet in device memory
  int blocks;   // of a group
  int slice;    // neurons of a block, a multiple of 4
  int batch;    // sequences of a group at a time, at most 8
  int warps;    // of a block, at least one for each 32 of its rows
  int groups;
  int together = 1;  // warps that make products together: 4, so that four have rows or none, or 1
};

// How float32 matrices are multiplied, see products.cuh.  Kernels are compiled for the first three.
enum class Form { bf16, tf32, split, fp16 };

// Words of an operand for a pair of numbers.
ARU_ANYWHERE constexpr int words_of(Form form) { return form == Form::split ? 3 : form == Form::tf32 ? 2 : 1; }

// Matrix instructions for 16 k; one of TF32 takes 8 k in as many clocks as one of bfloat16 takes 16.
ARU_ANYWHERE constexpr int instructions_of(Form form) { return form == Form::split ? 6 : form == Form::tf32 ? 2 : 1; }

// How the products are made that take the controller's state forward.  It lies within 1, where float16 has three bits
// more than bfloat16; and the operand is what is kept.
ARU_ANYWHERE constexpr Form state_form(Form form) { return form == Form::bf16 ? Form::fp16 : form; }

ARU_ANYWHERE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
ARU_ANYWHERE constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

// Warps of a block at most; a thread may then have 168 (12 warps) or 255 registers (8).
constexpr int most_warps(Form form) { return form == Form::bf16 ? 12 : 8; }
constexpr int largest_batch = 8;  // columns of a matrix product

// The state that a forward pass keeps: float16 or float32.
ARU_ANYWHERE constexpr bool keeps_half(Form form) { return state_form(form) == Form::fp16; }
// Backward, whether the warps share the sums of the controller's weight gradients, with the operands in shared memory:
// those of longer words do not fit there, and each warp sums for its own rows (backward.cuh).
ARU_ANYWHERE constexpr bool shares_sums(Form form, int tiles) { return form == Form::bf16 && tiles > 0; }

// Warps whose products are made together, on a GPU that has such (prim.cuh).
ARU_ANYWHERE constexpr int warps_together(Form form, int tiles, bool warp_groups) {
  return warp_groups && form == Form::bf16 && tiles > 0 ? 4 : 1;
}

// Column tiles (of 8 units) that the kernels are compiled for.  The backward pass needs two columns beside the units.
constexpr int forward_tiles[] = {2, 4, 7, 8};
constexpr int backward_tiles[] = {3, 5, 7, 9};
// Up to three units in the last column tile have even columns, so that no tanh of an odd one is needed there: the
// forward kernels of an odd number of tiles do without.
ARU_ANYWHERE constexpr bool spreads(int G) { return G % 8 > 0 && G % 8 < 4; }
ARU_ANYWHERE constexpr bool half_of_last(int tiles) { return tiles % 2 == 1; }
// The unit of a column; there is none where it is not below G.
ARU_ANYWHERE constexpr int unit_of(int column, int G) {
  if (!spreads(G) || column / 8 != G / 8) return column;
  return column % 2 == 0 ? column / 8 * 8 + column % 8 / 2 : G;
}
constexpr int tile_choices = 4;
constexpr int largest_controller = 64;

// 0 for G = 0, -1 where no kernel takes so many.
constexpr int column_tiles(bool backward, int G) {
  if (G == 0) return 0;
  for (int j = 0; j < tile_choices; ++j) {
    const int tiles = backward ? backward_tiles[j] : forward_tiles[j];
    const int whole = 8 * (tiles - 1);
    if (!backward && half_of_last(tiles) && G > whole ? G < whole + 4 : G + 2 * backward <= 8 * tiles) return tiles;
  }
  return -1;
}

// Warps that share the sums of the same rows, each those of 16 units; where they are four, the GPU may take them
// together.
ARU_ANYWHERE constexpr int sharing_warps(int tiles) { return tiles > 8 ? ceil_div(tiles, 2) : 4; }

// Few rows need more warps than they fill: those share the products and the sums.
constexpr int least_warps(Form form, int tiles, bool backward) {
  return backward && shares_sums(form, tiles) ? sharing_warps(tiles) : 4;
}

// 16-row tiles are taken in pairs: those of a block, with those without rows that complete warps together.
ARU_ANYWHERE constexpr int pairs_of(const Tiling& t) { return round_up(ceil_div(t.batch * t.slice, 32), t.together); }

// Derived sizes, and offsets in bytes into a block's shared memory.
struct Shape {
  int padded_H;     // columns of W_hh in k tiles
  int k_tiles;      // of the recurrent product
  int row_tiles;    // of 16 neurons of the slice
  int k_splits;     // warps that share the k of one row tile
  int state_words;  // one word of each pair of a row of the exchanged vector: an odd multiple of 8 modulo 32
  int sum_stride;   // of the partial sums, in floats
  int sum_floats;   // of all of a step
  int rows;         // of a block
  int pairs;        // pairs_of()
  // Offsets.
  int weight_hh, state, sums, controller, step_weights, carry, left, right, staging, barriers, total;
  int exchanged_bytes;  // that reach a block in one step
};

// tiles: column tiles of the controller; 0 for the static network.
ARU_ANYWHERE constexpr Shape shape_of(const Tiling& t, Form form, int tiles, bool backward) {
  Shape s{};
  s.padded_H = round_up(t.blocks * t.slice, 16);
  s.k_tiles = s.padded_H / 16;
  s.row_tiles = ceil_div(t.slice, 16);
  s.k_splits = t.warps / s.row_tiles > 1 ? t.warps / s.row_tiles : 1;
  if (s.k_splits > s.k_tiles) s.k_splits = s.k_tiles;
  s.state_words = round_up(s.padded_H / 2, 32) + 8;
  s.sum_stride = s.row_tiles * 16 + 4;
  s.rows = t.batch * t.slice;
  s.pairs = pairs_of(t);
  const int words = words_of(form), k = (tiles + 1) / 2, fragment = 256 * words;
  int at = 0;
  s.weight_hh = at;
  at += s.row_tiles * s.k_tiles * words * 512;
  s.state = at;
  at += (t.cluster ? 2 : 1) * words * t.batch * s.state_words * 4;
  s.sums = at;
  s.sum_floats = round_up(s.k_splits * t.batch * s.sum_stride, 4);
  at += 2 * s.sum_floats * 4;  // a step's are read while others write the next one's
  s.controller = at;
  at += ((tiles + 1) * k * fragment + tiles * 4 * 16) * (tiles > 0);
  s.step_weights = at;
  at += tiles * k * fragment * backward;
  s.carry = at;
  at += s.pairs * 2 * tiles * 512 * (backward && tiles > 0 && !shares_sums(form, tiles));
  const int outer = s.pairs * 4 * tiles * 128 * (backward && shares_sums(form, tiles));
  s.left = at;
  at += outer;
  s.right = at;
  at += 2 * outer;
  s.staging = at;
  at += s.pairs * 4 * tiles * 128 * (!backward && t.together > 1);
  s.barriers = at;
  at += 16;
  s.total = at;
  s.exchanged_bytes = t.blocks * t.slice * t.batch * 2 * words;
  return s;
}

// State that is kept: slots of all neurons' state at one time.  Four neighbouring neurons of a sequence are a quad,
// which four lanes have.  A slot has an image of each warp, in order of batch tiles, blocks and warps, as the
// accumulators have it: [row tile][row r or r + 8][column tile][quad][lane of the quad], the lane's pair of numbers.
// What a warp moves at once is one piece of memory, and an image of float16 is A of the weights' gradients but for the
// numbers' type (weight_sums.cuh).  So both passes have the same tiling; the size does not depend on it, for images
// leave out the quads of a warp that there are not.
ARU_ANYWHERE constexpr int kept_tiles(int G) { return ceil_div(G, 8); }
ARU_ANYWHERE constexpr int kept_pair_bytes(Form form) { return keeps_half(form) ? 4 : 8; }
ARU_ANYWHERE constexpr int kept_quad_bytes(Form form, int G) { return 4 * kept_tiles(G) * 4 * kept_pair_bytes(form); }
ARU_ANYWHERE constexpr int quads_of(int H) { return ceil_div(H, 4); }
inline int64_t kept_slot_bytes(const Sizes& z, Form form) {
  return int64_t(z.B) * quads_of(z.H) * kept_quad_bytes(form, z.G);
}

// Exchange through device memory: two buffers for each group, then its counter on a line of its own.
ARU_ANYWHERE constexpr int64_t exchange_words(const Shape& s, const Tiling& t, Form form) {
  return int64_t(2) * words_of(form) * t.batch * (s.padded_H / 2);
}
constexpr int counter_words = 32;
inline int64_t exchange_bytes(const Shape& s, const Tiling& t, Form form) {
  return t.cluster ? 0 : t.groups * (exchange_words(s, t, form) + counter_words) * 4;
}

// The sums that a backward pass leaves to be added up: [parts][rows][columns].  Of the controller's weight gradients a
// part comes from each warp, or from those warps of a block that share the rows; static, for n and s from each group.
struct SumsShape {
  int parts, rows, columns;
};
ARU_ANYWHERE constexpr int gradient_rows(int tiles) { return ceil_div(tiles, 2) * 16; }
ARU_ANYWHERE constexpr int gradient_columns(int tiles) { return tiles * 8; }
ARU_ANYWHERE constexpr int parts_of_block(const Tiling& t, Form form, int tiles) {
  return shares_sums(form, tiles) ? t.warps / sharing_warps(tiles) : t.warps;
}
constexpr SumsShape sums_shape(const Tiling& t, Form form, int tiles) {
  if (tiles == 0) return {t.groups * t.batch, 2, t.blocks * t.slice};
  return {t.groups * t.blocks * parts_of_block(t, form, tiles), gradient_rows(tiles), gradient_columns(tiles)};
}

struct ControllerWeights {
  const float *weight_ag, *weight_gg, *bias_g, *weight_gc, *bias_c;
};

// Slot j of the kept state has g before step j * segment; with segment 1 one more has the last g.
struct Forward {
  Sizes sizes;
  Tiling tiling;
  Shape shape;
  const float *xp, *h0, *g0, *weight_hh;
  ControllerWeights controller;
  const float *n_given, *s_given;  // [H], static network
  float n_floor;
  float *h, *a, *n, *s;  // [T,B,H]; a, n and s may be null
  float* g_last;         // [B,H,G]
  void* kept;            // null: no backward pass follows
  int64_t slot_bytes;
  int segment;
  uint32_t* exchange;
};

struct Backward {
  Sizes sizes;
  Tiling tiling;
  Shape shape;
  const float* weight_hh;
  ControllerWeights controller;
  const float *n_given, *s_given;
  float n_floor;
  const float *a, *n, *s;  // [T,B,H]
  const void* kept;
  int64_t slot_bytes;
  int segment;
  void* recomputed;  // `segment` slots of g after the steps of a segment, where segment > 1
  const float *d_h, *d_a, *d_n, *d_s, *d_h_last, *d_g_last;  // null for zero; d_h_last: of the last h alone
  float *d_xp, *d_h0, *d_g0;
  float* sums;  // of sums_shape()
  uint32_t* exchange;
};

}  // namespace cuda
}  // namespace aru
