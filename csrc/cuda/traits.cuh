// The constants of a kernel that is compiled for a form of products and a number of column tiles.
#pragma once

#include "prim.cuh"
#include "tiling.h"

namespace aru {
namespace cuda {

// tiles_: column tiles of the controller; 0 for the static network.
template <Form form_, int tiles_> struct KernelTraits {
  static constexpr Form form = form_;
  static constexpr Form recurrent_form = aru::cuda::recurrent_form(form_);
  static constexpr Form state_form = aru::cuda::state_form(form_);  // of forward products with the controller's state
  static constexpr bool scales_weights = aru::cuda::scales_weights(form_);  // of those
  static constexpr bool keeps_state = aru::cuda::keeps_state(form_);
  static constexpr int words = words_of(form), state_words = words_of(state_form);

  static constexpr bool adaptive = tiles_ > 0;
  // Arrays of the static network's kernels have one column tile, which nothing uses.
  static constexpr int tiles = adaptive ? tiles_ : 1;
  static constexpr int k_tiles = (tiles + 1) / 2;
  // Whether k tile k has two column tiles; otherwise products take its first 8 k only.
  ARU_ANYWHERE static constexpr bool whole(int k) { return 2 * k + 1 < tiles; }

  // Whether groups of four warps make the controller's products.
  static constexpr bool in_groups = warps_together(form_, tiles_, warp_groups) == 4;
  // Backward: how the sums of the controller's weight gradients are made (tiling.h).  A group of warps can make its own
  // sums if just its four warps share them.
  static constexpr bool shares_sums = aru::cuda::shares_sums(form_, tiles_);
  static constexpr int sharing_warps = aru::cuda::sharing_warps(tiles);
  static constexpr bool sums_in_groups = in_groups && sharing_warps == 4;
};

}  // namespace cuda
}  // namespace aru
