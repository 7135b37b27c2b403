// The state that the forward pass keeps for the backward pass: a warp's image in a slot (device_layout.h).
#pragma once

#include <type_traits>

#include "device_layout.h"
#include "rows.cuh"

namespace aru {
namespace cuda {

// A lane's pair of neighbouring numbers, as it is kept.
template <Form form> using KeptPair = std::conditional_t<keeps_half(form), uint32_t, float2>;
ARU_DEVICE float2 unpacked(const float2& pair) { return pair; }
ARU_DEVICE float2 unpacked(uint32_t pair) {
  float2 f;
  unpack_f16(pair, f.x, f.y);
  return f;
}

// Where a warp's image starts in a slot, and where its quads lie in the image, which has valid quads only.
struct Image {
  static constexpr int no_quad = 15;  // a warp has at most 8
  int first;                          // quads of the slot before the image
  // Three numbers of 4 bits each in one register: bits 0-3 the number of valid quads of the warp, bits 4-7 the index in
  // the image of this lane's quad, bits 8-11 that of quad lane % 8; no_quad if the quad is not valid.
  uint32_t packed;

  ARU_DEVICE Image of(const Sizes& z, const Tiling& t, int rows, int first_b, int first_i) {
    const int lane = thread_index() & 31;
    const Row own = Row::of(thread_index() & ~3, z, t, rows, first_b, first_i);
    const int sequences = z.B - first_b < t.batch ? z.B - first_b : t.batch;
    const int neurons = z.H - first_i < t.slice ? z.H - first_i : t.slice;
    // The lane's quad among the valid quads of the block.
    const int quad = own.index < 0 ? -1 : own.b * quads_of(neurons) + own.i / 4;
    int first = 0, quads = 0, rank = no_quad;
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
  ARU_METHOD int own_quad() const { return int(packed >> 4 & 15); }
  ARU_METHOD bool has_own_quad() const { return own_quad() < no_quad; }
  ARU_METHOD int copied_quad() const { return int(packed >> 8); }
  ARU_METHOD bool has_copied_quad() const { return copied_quad() < no_quad; }
};

// A number that is known at compile time.
template <int number> struct Constant {
  ARU_METHOD constexpr operator int() const { return number; }
};

// Stores the lane's pairs of the column tiles below `kept`.
template <Form form, class State, int rows>
ARU_DEVICE void put_rows(KeptPair<form>* to, int row_stride, int tile_stride, int kept, const State (&state)[rows]) {
  ARU_UNROLL
  for (int row = 0; row < 2 * rows; ++row) {
    ARU_UNROLL
    for (int n = 0; n < State::tiles; ++n)
      if (n < kept) to[row * row_stride + n * tile_stride] = state[row / 2].to_keep(n, row % 2);
  }
}

// The image of a warp in one slot.  Void is void or const void.
template <Form form, class Void> struct KeptState {
  using Pair = std::conditional_t<std::is_const<Void>::value, const KeptPair<form>, KeptPair<form>>;
  Pair* image;
  int all_tiles;  // column tiles of the image
  int quads;      // quads of the image
  int tiles;      // column tiles of the lane: none if its quad is not valid
  int lane;       // the lane's pair in the first column tile

  ARU_DEVICE KeptState of(Void* kept, int slot, int64_t slot_bytes, const Image& place, int G) {
    using Byte = std::conditional_t<std::is_const<Void>::value, const uint8_t, uint8_t>;
    Byte* at = static_cast<Byte*>(kept) + slot * slot_bytes + int64_t(place.first) * kept_quad_bytes(form, G);
    const int tiles = kept_tiles(G);
    return {reinterpret_cast<Pair*>(at), tiles, place.quads(), place.has_own_quad() ? tiles : 0,
            place.own_quad() * 4 + (thread_index() & 3)};
  }
  ARU_METHOD int bytes() const { return 16 * all_tiles * quads * kept_pair_bytes(form); }
  // Calls action(stride, tiles) with the stride of column tiles and the number of the lane's.  Most warps have all
  // quads; they take code with a constant stride.
  template <class Action> ARU_METHOD void strided(const Action& action) const {
    if (quads == 8)
      action(Constant<32>(), all_tiles);
    else
      action(quads * 4, tiles);
  }
  // The lane's pair of row 2m + high of its four, in column tile n < tiles.
  ARU_METHOD const Pair& pair(int row, int n) const { return image[lane + (row * all_tiles + n) * quads * 4]; }
  // The lane's pairs of such a row; 0 beyond `tiles`.
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
  // Stores rows `first` and the following ones.
  template <class State, int rows> ARU_METHOD void store(int first, const State (&state)[rows]) const {
    strided([&](auto stride, int tiles) {
      put_rows<form>(image + lane + first * all_tiles * stride, all_tiles * stride, stride, tiles, state);
    });
  }
  // Stores all rows to shared memory, in the layout of the image.
  template <class State> ARU_METHOD void stage(KeptPair<form>* to, const State (&state)[2]) const {
    put_rows<form>(to + lane, all_tiles * quads * 4, quads * 4, tiles, state);
  }
  // Fetches the image into the second-level cache.
  ARU_METHOD void prefetch_all() const {
    constexpr int line = 128 / kept_pair_bytes(form);
    for (int e = (thread_index() & 31) * line; e < 16 * all_tiles * quads; e += 32 * line) prefetch(image + e);
  }
};

}  // namespace cuda
}  // namespace aru
