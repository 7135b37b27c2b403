// Common parts of both passes of the adaptive network: packed weights, the layout of the kept state, parts of tiles.
// Each pass includes it once per instruction set.
#pragma once

#include "controller.h"
#include "tiles.h"

namespace aru {
namespace ARU_ISA {

// Kept state, in stored entries: [tile][slot][strip][strip_elements()].  Slot k has g before step k * segment; with
// segment 1 it has g after step k, and g before the first one is the argument g0.
inline int64_t slots(const SequenceSizes& z) { return ceil_div(z.T, z.segment); }

template <class T> int64_t strips_per_tile(const SequenceSizes& z) { return padded_rows<T>(z) / strip<T>; }

template <class S> int64_t slot_elements(const SequenceSizes& z) {
  return strips_per_tile<scalar_of<S>>(z) * strip_elements<S>(z.G);
}

template <class S> stored_of<S>* kept_of_tile(const SequenceSizes& z, void* kept, int64_t tile) {
  return at<stored_of<S>>(kept, tile * slots(z) * slot_elements<S>(z));
}

// The packed weights of one call.
template <class S> struct Weights {
  using T = scalar_of<S>;
  Buffer<T> memory;
  Packed<T> recurrent{};  // W_hh; empty if it is null
  Controller<S> controller;

  Weights(const SequenceSizes& z, const void* weight_hh, bool transpose, const ControllerWeights& w)
      : memory(Controller<S>::elements(z.G) + (weight_hh ? Packed<T>::elements(z.H) : 0)),
        controller(Controller<S>::pack(z.G, at<T>(w.weight_ag, 0), at<T>(w.weight_gg, 0), at<T>(w.bias_g, 0),
                                       at<T>(w.weight_gc, 0), at<T>(w.bias_c, 0), memory.get())) {
    if (weight_hh)
      recurrent = Packed<T>::pack(at<T>(weight_hh, 0), z.H, transpose, memory.get() + Controller<S>::elements(z.G));
  }
};

// Strips whose gamma is computed side by side.
constexpr int gamma_strips = side_by_side / strip_vectors;

// The vectors of R strips side by side.
template <class T, int R> ARU_FUNCTION Pack<vec<T>, R * strip_vectors> pack_strips(const Strip<T>* strips) {
  return Pack<vec<T>, R * strip_vectors>::of([&](int i) { return strips[i / strip_vectors].v[i % strip_vectors]; });
}
// Strip q of such a pack.
template <class T, int N> ARU_FUNCTION Strip<T> strip_of(const Pack<vec<T>, N>& pack, int q) {
  Strip<T> s;
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) s.v[r] = pack.v[q * strip_vectors + r];
  return s;
}

// Part p of a tile: its strips [first, first + count).
struct Part {
  int64_t first, count;

  Part(const SequenceSizes& z, int64_t strips, int64_t p)
      : first(strips * p / part_count(z)), count(strips * (p + 1) / part_count(z) - first) {}
};

// work(S{}) with the storage S that computes in `scalar`.
template <class F> auto with_storage(Scalar scalar, const F& work) {
  switch (scalar) {
    case Scalar::float64: return work(Whole<double>{});
    case Scalar::bfloat16_products: return work(Paired{});
    default: return work(Whole<float>{});
  }
}

}  // namespace ARU_ISA
}  // namespace aru
