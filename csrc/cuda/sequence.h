// What host and device share: the arguments of the kernels, how the work is cut, where things lie in shared memory.
//
// Rows r = (b, i) of a batch tile are cut into blocks: a group of `blocks` blocks (a cluster, or blocks that meet at a
// barrier in device memory) takes `batch` sequences through all steps, each block `slice` neurons of them; several
// groups work side by side, and each takes one batch tile after another.  The warps of a block are one team or two, which
// share the weights and nothing else: each takes its part of the group's sequences through the steps, with barriers of
// its own, and while one waits, the other works.  A warp has 32 rows, one a lane, or none: then it helps with the products
// that all warps of a team share.
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
  int warps;    // of a block, at least one for each 32 rows of a team
  int groups;
  int teams = 1;  // of a block, at most 2
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

// Column tiles (of 8 units) that the kernels are compiled for.  The backward pass needs two columns beside the units.
constexpr int forward_tiles[] = {2, 4, 7, 8};
constexpr int backward_tiles[] = {3, 5, 7, 9};
constexpr int tile_choices = 4;
constexpr int largest_controller = 64;

// 0 for G = 0, -1 where no kernel takes so many.
constexpr int column_tiles(bool backward, int G) {
  if (G == 0) return 0;
  for (int j = 0; j < tile_choices; ++j) {
    const int tiles = backward ? backward_tiles[j] : forward_tiles[j];
    if (G + (backward ? 2 : 0) <= 8 * tiles) return tiles;
  }
  return -1;
}

// Few rows need more warps than they fill: those share the products, and the sums of every 16 units.
constexpr int least_warps(Form form, int tiles, bool backward) {
  const int units = backward && shares_sums(form, tiles) ? ceil_div(tiles, 2) : 0;
  return units > 4 ? units : 4;
}

// Rows of a shared operand, in words: an odd multiple of 4, so that 8 rows lie in different banks.
ARU_ANYWHERE constexpr int outer_words(int tiles) { return 4 * (tiles | 1); }

// A team's part of a group's sequences, of a block's warps, and what follows from it.
struct Team {
  int first_warp, warps;
  int first_sequence, batch;
  int rows, pairs;  // of the block's; pairs of 16-row tiles
  int first_pair;
  int k_splits;         // warps that share the k of one row tile
  int exchanged_bytes;  // that reach the team in one step
};
constexpr int most_teams = 2;

// Derived sizes, and offsets in bytes into a block's shared memory, of the first team where each has its own.
struct Shape {
  int padded_H;     // columns of W_hh in k tiles
  int k_tiles;      // of the recurrent product
  int row_tiles;    // of 16 neurons of the slice
  int state_words;  // one word of each pair of a row of the exchanged vector: an odd multiple of 8 modulo 32
  int sum_stride;   // of the partial sums, in floats
  int sum_floats;   // of all of a step
  int pairs;        // of all teams
  int team_batch;   // sequences of a team at most
  Team team[most_teams];
  // Offsets.
  int weight_hh, state, sums, controller, step_weights, carry, left, right, barriers, total;
};

// Warps that share the k of a row tile: those with the least to do for the busiest of them, in matrix instructions of
// some 20 clocks, and for the sum of their parts, of which four take some 50.
ARU_ANYWHERE constexpr int k_splits_of(int warps, int row_tiles, int k_tiles) {
  int best = 1, least = 0;
  for (int splits = 1; splits <= warps && splits <= k_tiles; ++splits) {
    const int cost = 2 * ceil_div(k_tiles, splits) * ceil_div(row_tiles, warps / splits) + 5 * ceil_div(splits, 4);
    if (splits == 1 || cost < least) best = splits, least = cost;
  }
  return best;
}

// As many sequences and warps each as the other, as far as that goes.
ARU_ANYWHERE constexpr Team team_of(const Tiling& t, const Shape& s, Form form, int index) {
  Team m{};
  const int pairs[most_teams] = {ceil_div(s.team_batch * t.slice, 32),
                                 ceil_div((t.batch - s.team_batch) * t.slice, 32)};
  const int half = t.warps - (pairs[1] > t.warps / 2 ? pairs[1] : t.warps / 2);
  const int first_team = t.teams == 1 ? t.warps : pairs[0] > half ? pairs[0] : half;
  m.first_warp = index ? first_team : 0;
  m.warps = index ? t.warps - first_team : first_team;
  m.first_sequence = index * s.team_batch;
  m.batch = index ? t.batch - s.team_batch : s.team_batch;
  m.rows = m.batch * t.slice;
  m.pairs = pairs[index];
  m.first_pair = index ? pairs[0] : 0;
  m.k_splits = k_splits_of(m.warps, s.row_tiles, s.k_tiles);
  m.exchanged_bytes = t.blocks * t.slice * m.batch * 2 * words_of(form);
  return m;
}

// tiles: column tiles of the controller; 0 for the static network.
ARU_ANYWHERE constexpr Shape shape_of(const Tiling& t, Form form, int tiles, bool backward) {
  Shape s{};
  s.padded_H = round_up(t.blocks * t.slice, 16);
  s.k_tiles = s.padded_H / 16;
  s.row_tiles = ceil_div(t.slice, 16);
  s.state_words = round_up(s.padded_H / 2, 32) + 8;
  s.sum_stride = s.row_tiles * 16 + 4;
  s.team_batch = ceil_div(t.batch, t.teams);
  int k_splits = 0;
  for (int j = 0; j < t.teams; ++j) {
    s.team[j] = team_of(t, s, form, j);
    s.pairs += s.team[j].pairs;
    if (s.team[j].k_splits > k_splits) k_splits = s.team[j].k_splits;
  }
  const int words = words_of(form), k = (tiles + 1) / 2, fragment = 256 * words;
  int at = 0;
  s.weight_hh = at;
  at += s.row_tiles * s.k_tiles * words * 512;
  s.state = at;
  at += t.teams * (t.cluster ? 2 : 1) * words * s.team_batch * s.state_words * 4;
  s.sums = at;
  s.sum_floats = round_up(k_splits * s.team_batch * s.sum_stride, 4);
  at += t.teams * 2 * s.sum_floats * 4;  // a step's are read while others write the next one's
  s.controller = at;
  at += ((tiles + 1) * k * fragment + tiles * 4 * 24) * (tiles > 0);
  s.step_weights = at;
  at += tiles * k * fragment * backward;
  s.carry = at;
  at += s.pairs * 2 * tiles * 512 * (backward && tiles > 0 && !shares_sums(form, tiles));
  const int outer = s.pairs * 32 * outer_words(tiles) * 4 * (backward && shares_sums(form, tiles));
  s.left = at;
  at += 2 * outer;
  s.right = at;
  at += outer;
  s.barriers = at;
  at += t.teams * 16;
  s.total = at;
  return s;
}

// Numbers of a row of kept state: G in k tiles of 16, lane q's four of each tile side by side.
ARU_ANYWHERE constexpr int kept_row(int G) { return round_up(G, 16); }

// Exchange through device memory: two buffers for each team of a group, then its counter on a line of its own.
ARU_ANYWHERE constexpr int64_t exchange_words(const Shape& s, Form form) {
  return int64_t(2) * words_of(form) * s.team_batch * (s.padded_H / 2);
}
constexpr int counter_words = 32;
inline int64_t exchange_bytes(const Shape& s, const Tiling& t, Form form) {
  return t.cluster ? 0 : t.groups * t.teams * (exchange_words(s, form) + counter_words) * 4;
}

// The sums that a backward pass leaves to be added up: [parts][rows][columns].  Of the controller's weight gradients a
// part comes from each warp, or from those warps of a team that share the rows; static, for n and s from each sequence of
// a group.
struct SumsShape {
  int parts, rows, columns;
};
ARU_ANYWHERE constexpr int gradient_rows(int tiles) { return ceil_div(tiles, 2) * 16; }
ARU_ANYWHERE constexpr int gradient_columns(int tiles) { return tiles * 8; }
ARU_ANYWHERE constexpr int parts_of_team(const Team& m, Form form, int tiles) {
  return shares_sums(form, tiles) ? m.warps / ceil_div(tiles, 2) : m.warps;
}
// Of the block's teams before `end`.
ARU_ANYWHERE constexpr int parts_before(const Shape& s, Form form, int tiles, int end) {
  int parts = 0;
  for (int j = 0; j < end; ++j) parts += parts_of_team(s.team[j], form, tiles);
  return parts;
}
constexpr SumsShape sums_shape(const Tiling& t, const Shape& s, Form form, int tiles) {
  if (tiles == 0) return {t.groups * t.batch, 2, t.blocks * t.slice};
  return {t.groups * t.blocks * parts_before(s, form, tiles, t.teams), gradient_rows(tiles), gradient_columns(tiles)};
}

struct ControllerWeights {
  const float *weight_ag, *weight_gg, *bias_g, *weight_gc, *bias_c;
};

// Kept state: slots of B * H rows of kept_row(G) numbers.  Slot j has g before step j * segment; with segment 1 one more
// has the last g.
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
  int segment;
  void* recomputed;  // `segment` slots of g after the steps of a segment, where segment > 1
  const float *d_h, *d_a, *d_n, *d_s, *d_g_last;  // null for zero
  float *d_xp, *d_h0, *d_g0;
  float* sums;  // of sums_shape()
  uint32_t* exchange;
};

}  // namespace cuda
}  // namespace aru
