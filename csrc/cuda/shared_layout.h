// The layout of a block's shared memory.
#pragma once

#include "tiling.h"

namespace aru {
namespace cuda {

// Sizes that follow from a tiling, and offsets in bytes into a block's shared memory.
struct Shape {
  int padded_H;     // columns of W_hh, padded to whole k tiles
  int k_tiles;      // k tiles of the recurrent product
  int row_tiles;    // tiles of 16 neurons of the slice
  int k_splits;     // warps that share the k tiles of one row tile
  int state_words;  // words of a row of the exchanged vector, one of each pair: an odd multiple of 8 modulo 32
  int sum_stride;   // floats from one sequence to the next in the partial sums
  int sum_floats;   // floats of a step's partial sums
  int rows;         // rows of the block
  int pairs;        // pairs_of() the tiling

  int weight_hh;        // W_hh's slice, fragments [row tile][k tile][word][lane] (recurrent.cuh)
  int state;            // the exchanged vector [buffer][word][batch][state_words] (exchange.cuh)
  int sums;             // partial sums of two steps [step % 2][k split][batch][sum_stride] (recurrent.cuh)
  int controller;       // the controller's weights (controller.cuh)
  int step_weights;     // backward: [W_gg; W_gc] (controller_backward.cuh)
  int carry;            // backward, sums of its own rows: du [pair][row tile][column tile][lane] (own_sums.cuh)
  int left, right;      // backward, shared sums: V, and two buffers of A (shared_sums.cuh)
  int staging;          // forward, warps together: the state to be kept [pair], an image each (kept_state.cuh)
  int barriers;         // two mbarriers (exchange.cuh)
  int total;            // bytes of all
  int exchanged_bytes;  // bytes that reach a block in one step
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
  const int words = words_of(form), k = (tiles + 1) / 2, fragment = 256 * words_of(state_form(form));
  int at = 0;
  s.weight_hh = at;
  at += s.row_tiles * s.k_tiles * words * 512;
  s.state = at;
  at += (t.cluster ? 2 : 1) * words * t.batch * s.state_words * 4;
  s.sums = at;
  s.sum_floats = round_up(s.k_splits * t.batch * s.sum_stride, 4);
  at += 2 * s.sum_floats * 4;  // one step's sums are read while other warps write the next step's
  s.controller = at;
  at += ((tiles + 1) * k * fragment + tiles * 4 * 16) * (tiles > 0);
  s.step_weights = at;
  at += tiles * k * fragment * backward;
  s.carry = at;
  at += s.pairs * 2 * tiles * 512 * (backward && tiles > 0 && !shares_sums(form, tiles));
  const int operand = s.pairs * 4 * tiles * 128 * (backward && shares_sums(form, tiles));
  s.left = at;
  at += operand;
  s.right = at;
  at += 2 * operand;
  s.staging = at;
  at += s.pairs * 4 * tiles * 128 * (!backward && t.together > 1 && keeps_state(form));
  s.barriers = at;
  at += 16;
  s.total = at;
  s.exchanged_bytes = t.blocks * t.slice * t.batch * 2 * words;
  return s;
}

}  // namespace cuda
}  // namespace aru
