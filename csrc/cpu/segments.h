// The state of a segment of steps in the backward pass: kept by the forward pass, or recomputed.  Only aru_backward.cpp
// includes this.
#pragma once

#include "aru_sequence.h"
#include "weight_sums.h"

namespace aru {
namespace ARU_ISA {
namespace {

// The state of a part of a tile in the steps from t0 on.
template <class S> struct Segment {
  int64_t t0 = 0;
  const stored_of<S>* before = nullptr;          // g before step t0: strips of the part
  const stored_of<S>* after = nullptr;           // g after step t0, and after the following ones at distances of `slot`
  const scalar_of<S>*n = nullptr, *s = nullptr;  // rows of the part in step t0, and the following ones at `step`
  int64_t slot = 0, step = 0;

  const stored_of<S>* g(int64_t t) const { return after + (t - t0) * slot; }
  const stored_of<S>* g_before(int64_t t) const { return t == t0 ? before : g(t - 1); }
};

// Elements of dg, which is a strip of whole numbers in every storage.
template <class S> int64_t gradient_elements(int64_t G) {
  return strip_elements<Whole<scalar_of<S>>>(padded_units<S>(G));
}

// The number of strips whose du and g stay in the second-level cache until dW_gg has read them.
template <class S> int64_t chunk_strips(int64_t G) {
  return ceil_div(128 * 1024, int64_t(sizeof(stored_of<S>)) * strip_elements<S>(G));
}

template <class S>
const stored_of<S>* kept_of_part(const AruBackward& f, const Tile& tile, const Part& part, int64_t slot) {
  return kept_of_tile<S>(f.sizes, const_cast<void*>(f.kept), tile.index) + slot * slot_elements<S>(f.sizes) +
         part.first * strip_elements<S>(f.sizes.G);
}

// Scratch memory of a part of a tile.
template <class S> struct BackwardScratch {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  U* g;      // recomputed: [step of the segment][strip][strip_elements()]; g0 where all state is kept
  T *n, *s;  // recomputed: [step of the segment][strip][strip lanes]
  U* du;     // of a step: [strip][strip_elements()]
  T* dg;     // of a step: [strip][gradient_elements()]
  WeightSums<S> sums;

  void carve(const SequenceSizes& z, const Part& part, Carver& carver) {
    const int64_t size = part.count * strip_elements<S>(z.G), again = z.segment == 1 ? 0 : at_most(z.segment, z.T);
    g = carver.take<U>((z.segment == 1 ? 1 : again) * size);
    n = carver.take<T>(again * part.count * strip<T>);
    s = carver.take<T>(again * part.count * strip<T>);
    du = carver.take<U>(size);
    dg = carver.take<T>(part.count * gradient_elements<S>(z.G));
    sums.carve(z.G, at_most(part.count, chunk_strips<S>(z.G)), carver);
  }
};

// Recomputes g, n and s of a segment, strip by strip so that a strip's state stays in the cache.
template <class S>
Segment<S> recompute(const AruBackward& f, const Controller<S>& controller, const Tile& tile, const Part& part,
                     int64_t t0, const BackwardScratch<S>& scratch) {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  const SequenceSizes& z = f.sizes;
  const int64_t size = strip_elements<S>(z.G), padded = part.count * strip<T>, slot = part.count * size;
  const auto* before = kept_of_part<S>(f, tile, part, t0 / z.segment);
  const int64_t t1 = at_most(t0 + z.segment, z.T);
  for (int64_t i = 0; i < part.count; ++i) {
    const U* g = before + i * size;
    for (int64_t t = t0; t < t1; ++t) {
      const int64_t row = (part.first + i) * strip<T>, k = t - t0;
      const Strip<T> a = load_strip(at<T>(f.a, t * z.B * z.H + tile.offset) + row, tile.rows - row);
      Strip<T> n, s;
      U* g_next = scratch.g + k * slot + i * size;
      controller.step(a, g, g_next, n, s);
      store_strip(scratch.n + k * padded + i * strip<T>, n);
      store_strip(scratch.s + k * padded + i * strip<T>, s);
      g = g_next;
    }
  }
  return {t0, before, scratch.g, scratch.n, scratch.s, slot, padded};
}

template <class S>
Segment<S> read_kept(const AruBackward& f, const Tile& tile, const Part& part, int64_t t0,
                     const BackwardScratch<S>& scratch) {
  using T = scalar_of<S>;
  const SequenceSizes& z = f.sizes;
  const int64_t slot = slot_elements<S>(z), step = z.B * z.H, rows = t0 * step + tile.offset + part.first * strip<T>;
  for (int64_t i = 0; t0 == 0 && i < part.count; ++i) {
    const int64_t row = (part.first + i) * strip<T>;
    strip_from_rows<S>(at<T>(f.g0, (tile.offset + row) * z.G), tile.rows - row, z.G,
                       scratch.g + i * strip_elements<S>(z.G));
  }
  const auto* after = kept_of_part<S>(f, tile, part, t0);
  return {t0, t0 ? after - slot : scratch.g, after, at<T>(f.n, rows), at<T>(f.s, rows), slot, step};
}

}  // namespace
}  // namespace ARU_ISA
}  // namespace aru
