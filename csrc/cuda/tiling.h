// How the work is cut: into groups of blocks, slices of neurons, batch tiles of sequences, warps and column tiles of
// controller units.
//
// A group of `blocks` blocks (a cluster, or blocks that meet at a barrier in device memory) takes `batch` sequences, a
// batch tile, through all steps; each block has `slice` neurons of them.  Several groups work side by side, and each
// takes one batch tile after another.  The rows (sequence, neuron) of a block are dealt to its warps, 32 to a warp and
// one to a lane.  Warps beyond the last row help with the products that all warps of the block share.
#pragma once

#include "forms.h"

namespace aru {
namespace cuda {

ARU_ANYWHERE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
ARU_ANYWHERE constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

struct Sizes {
  int T, B, H, G;  // G = 0: the static network, whose n and s are parameters
};

struct Tiling {
  int cluster;       // 1: the blocks of a group are a cluster; 0: they meet in device memory
  int blocks;        // blocks of a group
  int slice;         // neurons of a block, a multiple of 4
  int batch;         // sequences that a group takes at a time, at most largest_batch
  int warps;         // warps of a block, at least one for each 32 of its rows
  int groups;        // groups of the launch
  int together = 1;  // warps that make products together: 4, so that either all four have rows or none; or 1
};

constexpr int largest_batch = 8;  // columns of a matrix product
constexpr int largest_controller = 64;

// Most warps of a block.  A thread may then use 168 registers (12 warps) or 255 (8 warps).
constexpr int most_warps(Form form) { return form == Form::bf16 || form == Form::mixed ? 12 : 8; }

// Column tiles, of 8 controller units each, that the kernels are compiled for.  The backward pass needs two columns
// beside the units (backward.cuh).
constexpr int tile_choices = 4;
constexpr int forward_tiles[tile_choices] = {2, 4, 7, 8};
constexpr int backward_tiles[tile_choices] = {3, 5, 7, 9};

// If the last column tile has one to three units, they take its even columns, so that forward kernels with an odd
// number of tiles need no tanh for the odd columns.
ARU_ANYWHERE constexpr bool spreads(int G) { return G % 8 > 0 && G % 8 < 4; }
ARU_ANYWHERE constexpr bool half_of_last(int tiles) { return tiles % 2 == 1; }

// The unit of a column; G or more if the column has none.
ARU_ANYWHERE constexpr int unit_of(int column, int G) {
  if (!spreads(G) || column / 8 != G / 8) return column;
  return column % 2 == 0 ? column / 8 * 8 + column % 8 / 2 : G;
}

// Column tiles of the kernel for G units: 0 for G = 0, -1 if no kernel has that many.
constexpr int column_tiles(bool backward, int G) {
  if (G == 0) return 0;
  for (int j = 0; j < tile_choices; ++j) {
    const int tiles = backward ? backward_tiles[j] : forward_tiles[j];
    const int whole = 8 * (tiles - 1);
    if (!backward && half_of_last(tiles) && G > whole ? G < whole + 4 : G + 2 * backward <= 8 * tiles) return tiles;
  }
  return -1;
}

// Warps that make products together on a GPU with warp groups (prim.cuh).
ARU_ANYWHERE constexpr int warps_together(Form form, int tiles, bool warp_groups) {
  return warp_groups && (form == Form::bf16 || form == Form::mixed) && tiles > 0 ? 4 : 1;
}

// Whether the warps of a backward kernel share the sums of the controller's weight gradients, with the operands in
// shared memory (shared_sums.cuh).  Operands of more than one word do not fit there, and each warp has the sums of its
// own rows (own_sums.cuh).
ARU_ANYWHERE constexpr bool shares_sums(Form form, int tiles) { return form == Form::bf16 && tiles > 0; }

// Warps that share the sums over the same rows; each has the sums of 16 units.  Four of them can be a warp group.
ARU_ANYWHERE constexpr int sharing_warps(int tiles) { return tiles > 8 ? ceil_div(tiles, 2) : 4; }

// Fewest warps of a block.  A block with few rows has more warps than its rows need: they share the products and sums.
constexpr int least_warps(Form form, int tiles, bool backward) {
  return backward && shares_sums(form, tiles) ? sharing_warps(tiles) : 4;
}

// Pairs of 16-row tiles of a block, one pair to a warp, including pairs without rows that complete `together` warps.
ARU_ANYWHERE constexpr int pairs_of(const Tiling& t) { return round_up(ceil_div(t.batch * t.slice, 32), t.together); }

}  // namespace cuda
}  // namespace aru
