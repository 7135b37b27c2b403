// The layout of the kernels' own device memory: the controller's state between the passes, the exchanged vectors of
// groups that are no cluster, and the partial sums of weight gradients.
#pragma once

#include <cstdint>

#include "shared_layout.h"

namespace aru {
namespace cuda {

// Kept state.  A slot has the state of all neurons at one step.  Four neighbouring neurons of a sequence are a quad;
// four lanes hold it.  A slot is the images of all warps in order of batch tiles, blocks and warps, and an image has
// the state as the accumulators have it: [row tile][row r or r + 8][column tile][quad][lane of the quad], a pair of
// numbers each.  So a warp moves one contiguous piece of memory, and an image in float16 has the layout of A in shared
// memory (shared_sums.cuh).  Both passes therefore need the same tiling.  The size of a slot does not depend on the
// tiling, because an image holds valid quads only.
ARU_ANYWHERE constexpr int kept_tiles(int G) { return ceil_div(G, 8); }  // column tiles of an image
ARU_ANYWHERE constexpr int kept_pair_bytes(Form form) { return keeps_half(form) ? 4 : 8; }
ARU_ANYWHERE constexpr int kept_quad_bytes(Form form, int G) { return 4 * kept_tiles(G) * 4 * kept_pair_bytes(form); }
ARU_ANYWHERE constexpr int quads_of(int H) { return ceil_div(H, 4); }
inline int64_t kept_slot_bytes(const Sizes& z, Form form) {
  return int64_t(z.B) * quads_of(z.H) * kept_quad_bytes(form, z.G);
}

// Exchanged vectors: two buffers for each group, then its counter on a cache line of its own.
ARU_ANYWHERE constexpr int64_t exchange_words(const Shape& s, const Tiling& t, Form form) {
  return int64_t(2) * words_of(form) * t.batch * (s.padded_H / 2);
}
constexpr int counter_words = 32;
inline int64_t exchange_bytes(const Shape& s, const Tiling& t, Form form) {
  return t.cluster ? 0 : t.groups * (exchange_words(s, t, form) + counter_words) * 4;
}

// Partial sums of a backward pass, which the caller adds up over `parts`.  Adaptive network: the controller's weight
// gradients V^T A (backward.cuh), a part for each warp or for the warps of a block that share the same rows.  Static
// network: row 0 has dn and row 1 ds of all neurons, a part for each sequence of a group.
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

}  // namespace cuda
}  // namespace aru
