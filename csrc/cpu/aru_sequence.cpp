// The adaptive network: forward and back-propagation through time.  Compiled once per instruction set.
#include "controller.h"
#include "kernels.h"
#include "tiles.h"
#include "weight_sums.h"

namespace aru {
namespace ARU_ISA {
namespace {

int64_t slots(const SequenceSizes& z) { return z.segment == 1 ? z.T + 1 : ceil_div(z.T, z.segment); }

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
  Packed<T> recurrent{};
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
// Strip q of those.
template <class T, int N> ARU_FUNCTION Strip<T> strip_of(const Pack<vec<T>, N>& pack, int q) {
  Strip<T> s;
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) s.v[r] = pack.v[q * strip_vectors + r];
  return s;
}

// Part p of a tile: strips [first, first + count).
struct Part {
  int64_t first, count;

  Part(const SequenceSizes& z, int64_t strips, int64_t p)
      : first(strips * p / part_count(z)), count(strips * (p + 1) / part_count(z) - first) {}
};

// Where the state is not kept, strip i of a part at step t lies in slot (i - t) mod (count + 1) of a ring: what a strip
// writes takes the place of what its predecessor has read, and the part's state stays as small as it can be.
template <class U> struct Ring {
  U* memory = nullptr;
  int64_t slots = 0, size = 0, shift = 0;  // shift: t mod slots

  U* slot(int64_t i) const { return memory + (i >= shift ? i - shift : i - shift + slots) * size; }
  U* next_slot(int64_t i) const { return i > shift ? slot(i - 1) : slot(i + slots - 1); }
  void advance() { shift = shift + 1 == slots ? 0 : shift + 1; }
};

template <class S>
void forward_tile(const AruForward& f, const Weights<S>& w, const Tile& tile, scalar_of<S>* scratch_a,
                  const Member& member) {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  const SequenceSizes& z = f.sizes;
  const int64_t step = z.B * z.H, size = strip_elements<S>(z.G), strips = ceil_div(tile.rows, strip<T>);
  const int64_t slot = slot_elements<S>(z), parts = part_count(z), panels = w.recurrent.panels(z.H);
  const bool keep_all = f.kept && z.segment == 1;
  U* kept = kept_of_tile<S>(z, f.kept, tile.index);

  Ring<U> rings[most_parts];
  const auto carve_rings = [&](Carver carve) {
    for (int64_t p = member.index; p < parts; p += member.size) {
      const int64_t ring_slots = keep_all ? 0 : Part(z, strips, p).count + 1;
      rings[p] = {carve.take<U>(ring_slots * size), ring_slots, size};
    }
    return carve.used();
  };
  carve_rings(Carver(thread_scratch(carve_rings(Carver()))));

  // Nothing of what is kept stays undefined: not the padding of a strip, nor what a last, smaller tile does not use.
  const int64_t used = padded_units<S>(z.G) / S::units * strip<T>;
  const auto pad = [&](U* strip_of_state) {
    if (used < size) std::memset(strip_of_state + used, 0, sizeof(U) * size_t(size - used));
  };
  if (kept && strips * size < slot && member.index == 0)
    for (int64_t k = 0; k < slots(z); ++k)
      std::memset(kept + k * slot + strips * size, 0, sizeof(U) * size_t(slot - strips * size));

  for (int64_t p = member.index; p < parts; p += member.size) {
    const Part part(z, strips, p);
    for (int64_t k = 0; k < part.count; ++k) {
      const int64_t i = part.first + k;
      U* g = keep_all ? kept + i * size : rings[p].slot(k);
      pad(g);
      strip_from_rows<S>(at<T>(f.g0, (tile.offset + i * strip<T>)*z.G), tile.rows - i * strip<T>, z.G, g);
    }
  }

  for (int64_t t = 0; t < z.T; ++t) {
    const int64_t rows = t * step + tile.offset;
    const T* xp = at<T>(f.xp, rows);
    T *h = at<T>(f.h, rows), *a_out = f.a ? at<T>(f.a, rows) : scratch_a;
    const T* a_rows = a_out;
    if (f.weight_hh) {
      multiply(w.recurrent, t ? h - step : at<T>(f.h0, tile.offset), xp, a_out, tile.count, member.begin(panels),
               member.end(panels));
    } else if (f.a) {
      if (member.index == 0) std::memcpy(a_out, xp, sizeof(T) * size_t(tile.rows));
    } else {
      a_rows = xp;
    }
    member.wait();  // for all of a_t
    const bool checkpoint = f.kept && !keep_all && t % z.segment == 0;
    for (int64_t p = member.index; p < parts; p += member.size) {
      const Part part(z, strips, p);
      Ring<U>& ring = rings[p];
      for (int64_t first = 0; first < part.count; first += gamma_strips) {
        const int count = int(at_most(gamma_strips, part.count - first));
        Strip<T> a[gamma_strips] = {}, n[gamma_strips] = {}, s[gamma_strips] = {};
        for (int q = 0; q < count; ++q) {
          const int64_t k = first + q, i = part.first + k, row = i * strip<T>, left = tile.rows - row;
          const U* g = keep_all ? kept + t * slot + i * size : ring.slot(k);
          U* g_next = keep_all ? kept + (t + 1) * slot + i * size : ring.next_slot(k);
          if (checkpoint) std::memcpy(kept + t / z.segment * slot + i * size, g, sizeof(U) * size_t(size));
          a[q] = load_strip(a_rows + row, left);
          w.controller.step(a[q], g, g_next, n[q], s[q]);
          if (f.kept) pad(g_next);
          if (f.n) {
            store_strip(at<T>(f.n, rows) + row, n[q], left);
            store_strip(at<T>(f.s, rows) + row, s[q], left);
          }
        }
        const auto values = gamma_value(pack_strips<T, gamma_strips>(a), pack_strips<T, gamma_strips>(n),
                                        pack_strips<T, gamma_strips>(s), T(f.n_floor));
        for (int q = 0; q < count; ++q) {
          const int64_t row = (part.first + first + q) * strip<T>;
          store_strip(h + row, strip_of<T>(values, q), tile.rows - row);
        }
      }
      ring.advance();
    }
    member.wait();  // for all of h_t
  }
  for (int64_t p = member.index; p < parts; p += member.size) {
    const Part part(z, strips, p);
    for (int64_t k = 0; k < part.count; ++k) {
      const int64_t i = part.first + k;
      const U* g = keep_all ? kept + z.T * slot + i * size : rings[p].slot(k);
      rows_from_strip<S>(g, tile.rows - i * strip<T>, z.G, at<T>(f.g_last, (tile.offset + i * strip<T>)*z.G));
    }
  }
}

template <class S> void forward(const AruForward& f) {
  using T = scalar_of<S>;
  const SequenceSizes& z = f.sizes;
  const Weights<S> w(z, f.weight_hh, true, f.controller);
  const int64_t tiles = tile_count(z), rows = padded_rows<T>(z);
  const Buffer<T> scratch_a(f.a ? 0 : tiles * rows);
  parallel_teams(tiles, part_count(z), f.threads, [&](int64_t i, const Member& member) {
    forward_tile<S>(f, w, Tile(z, i), scratch_a.get() + i * rows, member);
  });
}

// The state of a part of a tile over one segment of steps: what was kept, or what is computed again from it.
template <class S> struct Segment {
  int64_t t0 = 0;
  const stored_of<S>* before = nullptr;            // g before step t0
  const stored_of<S>* after = nullptr;             // g after step t0, and so on
  const scalar_of<S>*n = nullptr, *s = nullptr;    // of step t0
  int64_t slot = 0, step = 0;                      // distance between the steps in `after`, and in n and s

  const stored_of<S>* g(int64_t t) const { return after + (t - t0) * slot; }
  const stored_of<S>* g_before(int64_t t) const { return t == t0 ? before : g(t - 1); }
};

// Of dg, a strip of floats in either case.
template <class S> int64_t gradient_elements(int64_t G) { return strip_elements<Whole<scalar_of<S>>>(padded_units<S>(G)); }

// du and g of so many strips stay in the second-level cache until dW_gg has read them.
template <class S> int64_t chunk_strips(int64_t G) {
  return ceil_div(128 * 1024, int64_t(sizeof(stored_of<S>)) * strip_elements<S>(G));
}

template <class S>
const stored_of<S>* kept_of_part(const AruBackward& f, const Tile& tile, const Part& part, int64_t slot) {
  return kept_of_tile<S>(f.sizes, const_cast<void*>(f.kept), tile.index) + slot * slot_elements<S>(f.sizes) +
         part.first * strip_elements<S>(f.sizes.G);
}

// What a part of a tile needs in the backward pass.
template <class S> struct BackwardScratch {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  U* g;       // of a segment, computed again
  T *n, *s;
  U* du;      // of a step
  T* dg;
  WeightSums<S> sums;

  void carve(const SequenceSizes& z, const Part& part, Carver& carver) {
    const int64_t size = part.count * strip_elements<S>(z.G), again = z.segment == 1 ? 0 : at_most(z.segment, z.T);
    g = carver.take<U>(again * size);
    n = carver.take<T>(again * part.count * strip<T>);
    s = carver.take<T>(again * part.count * strip<T>);
    du = carver.take<U>(size);
    dg = carver.take<T>(part.count * gradient_elements<S>(z.G));
    sums.carve(z.G, at_most(part.count, chunk_strips<S>(z.G)), carver);
  }
};

// Computes g, n and s of a segment again, strip after strip so that a strip's state stays in the cache.
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

template <class S> Segment<S> read_kept(const AruBackward& f, const Tile& tile, const Part& part, int64_t t0) {
  using T = scalar_of<S>;
  const SequenceSizes& z = f.sizes;
  const int64_t slot = slot_elements<S>(z), step = z.B * z.H, rows = t0 * step + tile.offset + part.first * strip<T>;
  const auto* before = kept_of_part<S>(f, tile, part, t0);
  return {t0, before, before + slot, at<T>(f.n, rows), at<T>(f.s, rows), slot, step};
}

// What reaches R strips through h, a, n and s.
template <class T, int R> struct Upstream {
  Strip<T> a[R], dx[R], dn[R], ds[R];
};

// Of the i-th strip of its part and those after it; `row` is the first of their rows in the tile, `left` how many there
// are from there on.
template <class S, int R>
ARU_FUNCTION Upstream<scalar_of<S>, R> upstream_of(const AruBackward& f, int64_t rows, int64_t row, int64_t left,
                                                   const Segment<S>& segment, int64_t t, int64_t i,
                                                   const scalar_of<S>* dh) {
  using T = scalar_of<S>;
  const int64_t place = (t - segment.t0) * segment.step + i * strip<T>;
  Upstream<T, R> up;
  Strip<T> n[R], s[R];
#pragma GCC unroll 4
  for (int q = 0; q < R; ++q) {
    const int64_t next = q * strip<T>;
    up.a[q] = load_strip(at<T>(f.a, rows) + row + next, left - next);
    n[q] = load_strip(segment.n + place + next, left - next);
    s[q] = load_strip(segment.s + place + next, left - next);
  }
  const auto d = gamma_derivatives(pack_strips<T, R>(up.a), pack_strips<T, R>(n), pack_strips<T, R>(s), T(f.n_floor));
#pragma GCC unroll 4
  for (int q = 0; q < R; ++q) {
    const int64_t next = q * strip<T>;
    const Strip<T> d_h = load_strip(dh + row + next, left - next);
    const auto times = [&](const Pack<vec<T>, R * strip_vectors>& derivative, const void* more) {
      Strip<T> result = strip_of<T>(derivative, q);
#pragma GCC unroll 4
      for (int r = 0; r < strip_vectors; ++r) result.v[r] *= d_h.v[r];
      if (more) {
        const Strip<T> extra = load_strip(at<T>(more, rows) + row + next, left - next);
        for (int r = 0; r < strip_vectors; ++r) result.v[r] += extra.v[r];
      }
      return result;
    };
    up.dx[q] = times(d.dx, f.d_a);
    up.dn[q] = times(d.dn, f.d_n);
    up.ds[q] = times(d.ds, f.d_s);
  }
  return up;
}

// One step of R strips, the i-th of their part and those after it, up to du: fills du and da, updates the sums for the
// vectors and the read-out.
template <class S, int R>
void backward_strips(const AruBackward& f, const Controller<S>& c, const Tile& tile, const Part& part, int64_t t,
                     int64_t i, const Segment<S>& segment, const scalar_of<S>* dh, BackwardScratch<S>& own) {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  const int64_t size = strip_elements<S>(c.G), dg_size = gradient_elements<S>(c.G);
  const int64_t rows = t * f.sizes.B * f.sizes.H + tile.offset, row = (part.first + i) * strip<T>;
  auto up = upstream_of<S, R>(f, rows, row, tile.rows - row, segment, t, i, dh);

  const U* g = segment.g(t) + i * size;
  const U* g_before = segment.g_before(t) + i * size;  // read soon, by the products for dW_gg
  const T* dg = own.dg + i * dg_size;
  U* du = own.du + i * size;
  for (int64_t j = 0; j < c.G; j += S::units) {
    const int64_t entry = j / S::units * strip<T>;
    Strip<T> gj[R][S::units], duj[R][S::units];
#pragma GCC unroll 4
    for (int q = 0; q < R; ++q) {
      load_units(S{}, g + q * size + entry, gj[q]);
#pragma GCC unroll 4
      for (int r = 0; r < strip_vectors; ++r) __builtin_prefetch(g_before + q * size + entry + r * lanes<T>, 0, 2);
    }
#pragma GCC unroll 2
    for (int u = 0; u < S::units; ++u) {
      const T weight_n = c.weight_n[j + u], weight_s = c.weight_s[j + u], weight_ag = c.weight_ag[j + u];
      vec<T>* to = own.sums.of_unit(j + u);
      vec<T> sum_du = to[0], sum_du_a = to[1], sum_dn_g = to[2], sum_ds_g = to[3];
#pragma GCC unroll 4
      for (int q = 0; q < R; ++q) {
        const Strip<T> dgj = load_strip(dg + q * dg_size + (j + u) * strip<T>);
#pragma GCC unroll 4
        for (int r = 0; r < strip_vectors; ++r) {
          const vec<T> gjr = gj[q][u].v[r];
          vec<T> d = dgj.v[r] + up.dn[q].v[r] * weight_n + up.ds[q].v[r] * weight_s;
          d = d * (T(1) - gjr * gjr);
          duj[q][u].v[r] = d;
          up.dx[q].v[r] += d * weight_ag;
          sum_du += d;
          sum_du_a += d * up.a[q].v[r];
          sum_dn_g += up.dn[q].v[r] * gjr;
          sum_ds_g += up.ds[q].v[r] * gjr;
        }
      }
      to[0] = sum_du, to[1] = sum_du_a, to[2] = sum_dn_g, to[3] = sum_ds_g;
    }
#pragma GCC unroll 4
    for (int q = 0; q < R; ++q) store_units(S{}, du + q * size + entry, duj[q]);
  }
  for (int q = 0; q < R; ++q) {
    for (int r = 0; r < strip_vectors; ++r) {
      own.sums.bias_c()[0] += up.dn[q].v[r];
      own.sums.bias_c()[1] += up.ds[q].v[r];
    }
    store_strip(at<T>(f.d_xp, rows) + row + q * strip<T>, up.dx[q], tile.rows - row - q * strip<T>);
  }
  for (int q = 0; q < R; ++q) c.backward(du + q * size, own.dg + (i + q) * dg_size);
}

// Strips of one pass share the loads and stores of the sums (7% of the backward pass on Zen 4, 8% at G = 24), as long as
// their g, dg and du stay in the first-level cache (else 3 to 5% slower).  With AVX2 there are no registers for it.
constexpr int strips_together = strip_vectors == 1 ? 4 : 1;
template <class S> bool fit_together(int64_t G) {
  return strips_together * (2 * sizeof(stored_of<S>) * strip_elements<S>(G) +
                            sizeof(scalar_of<S>) * gradient_elements<S>(G)) <= 20 * 1024;
}

template <class S>
void backward_tile(const AruBackward& f, const Weights<S>& w, const Tile& tile, scalar_of<S>* dh, double* totals,
                   const Member& member) {
  using T = scalar_of<S>;
  const SequenceSizes& z = f.sizes;
  const Controller<S>& c = w.controller;
  const int64_t step = z.B * z.H, size = strip_elements<S>(z.G), strips = ceil_div(tile.rows, strip<T>);
  const int64_t dg_size = gradient_elements<S>(z.G), chunk = chunk_strips<S>(z.G);
  const int64_t parts = part_count(z), panels = w.recurrent.panels(z.H);
  const bool together = fit_together<S>(z.G);

  BackwardScratch<S> scratch[most_parts];
  Segment<S> segments[most_parts];
  const auto carve_scratch = [&](Carver carve) {
    for (int64_t p = member.index; p < parts; p += member.size) scratch[p].carve(z, Part(z, strips, p), carve);
    return carve.used();
  };
  carve_scratch(Carver(thread_scratch(carve_scratch(Carver()))));

  for (int64_t p = member.index; p < parts; p += member.size) {
    const Part part(z, strips, p);
    scratch[p].sums.clear();
    segments[p].t0 = z.T;
    for (int64_t i = 0; i < part.count; ++i) {
      const int64_t row = (part.first + i) * strip<T>;
      T* dg = scratch[p].dg + i * dg_size;
      if (f.d_g_last) {
        strip_from_rows<Whole<T>>(at<T>(f.d_g_last, (tile.offset + row) * z.G), tile.rows - row, z.G, dg);
      } else {
        std::memset(dg, 0, sizeof(T) * size_t(dg_size));
      }
    }
  }

  for (int64_t t = z.T - 1; t >= 0; --t) {
    const int64_t rows = t * step + tile.offset;
    const T* upstream = at<T>(f.d_h, rows);
    if (t + 1 < z.T && f.weight_hh) {
      multiply(w.recurrent, at<T>(f.d_xp, rows + step), upstream, dh, tile.count, member.begin(panels),
               member.end(panels));
    } else if (member.index == 0) {
      copy_or_zero(dh, upstream, tile.rows);
    }
    member.wait();  // for all of dh_t
    for (int64_t p = member.index; p < parts; p += member.size) {
      const Part part(z, strips, p);
      BackwardScratch<S>& own = scratch[p];
      Segment<S>& segment = segments[p];
      if (t < segment.t0)
        segment = z.segment == 1 ? read_kept<S>(f, tile, part, t)
                                 : recompute<S>(f, c, tile, part, t / z.segment * z.segment, own);
      for (int64_t first = 0; first < part.count; first += chunk) {
        const int64_t end = at_most(first + chunk, part.count);
        int64_t i = first;
        if (together)
          for (; i + strips_together <= end; i += strips_together)
            backward_strips<S, strips_together>(f, c, tile, part, t, i, segment, dh, own);
        for (; i < end; ++i) backward_strips<S, 1>(f, c, tile, part, t, i, segment, dh, own);
        own.sums.add_products(own.du + first * size, segment.g_before(t) + first * size, end - first);
      }
      // Often enough that a float sum keeps its accuracy over any number of steps.
      if (t % 16 == 0) own.sums.flush(totals + p * WeightSums<S>::total_elements(z.G));
    }
    member.wait();  // for all of da_t
  }

  if (f.weight_hh)
    multiply<T>(w.recurrent, at<T>(f.d_xp, tile.offset), nullptr, at<T>(f.d_h0, tile.offset), tile.count,
                member.begin(panels), member.end(panels));
  for (int64_t p = member.index; p < parts; p += member.size) {
    const Part part(z, strips, p);
    for (int64_t i = 0; i < part.count; ++i) {
      const int64_t row = (part.first + i) * strip<T>;
      rows_from_strip<Whole<T>>(scratch[p].dg + i * dg_size, tile.rows - row, z.G, at<T>(f.d_g0, (tile.offset + row) * z.G));
    }
  }
}

template <class S> void backward(const AruBackward& f) {
  using T = scalar_of<S>;
  const SequenceSizes& z = f.sizes;
  const Weights<S> w(z, f.weight_hh, false, f.controller);
  const int64_t tiles = tile_count(z), parts = part_count(z), rows = padded_rows<T>(z);
  const int64_t G = z.G, elements = WeightSums<S>::total_elements(G);
  const Buffer<T> dh(tiles * rows);
  const Buffer<double> totals(tiles * parts * elements);
  std::memset(totals.get(), 0, sizeof(double) * size_t(tiles * parts * elements));
  parallel_teams(tiles, parts, f.threads, [&](int64_t i, const Member& member) {
    backward_tile<S>(f, w, Tile(z, i), dh.get() + i * rows, totals.get() + i * parts * elements, member);
  });
  // In the order of WeightSums' totals.
  const double* from = totals.get();
  const auto finish = [&](void* out, int64_t count) {
    sum_parts(from, tiles * parts, elements, count, static_cast<T*>(out));
    from += count;
  };
  finish(f.d_weight_gg, G * G);
  finish(f.d_bias_g, G);
  finish(f.d_weight_ag, G);
  finish(f.d_weight_gc, 2 * G);
  finish(f.d_bias_c, 2);
  if (f.weight_hh)
    recurrent_weight_gradient(z, at<T>(f.d_xp, 0), at<T>(f.h, 0), at<T>(f.h0, 0), at<T>(f.d_weight_hh, 0), f.threads);
}

}  // namespace

// work(S{}) with the storage S that computes in `scalar`.
template <class F> static auto with_storage(Scalar scalar, const F& work) {
  switch (scalar) {
    case Scalar::float64: return work(Whole<double>{});
    case Scalar::bfloat16_products: return work(Paired{});
    default: return work(Whole<float>{});
  }
}

int64_t strip_rows(Scalar scalar) {
  return with_storage(scalar, [](auto s) -> int64_t { return strip<scalar_of<decltype(s)>>; });
}

int64_t kept_elements(Scalar scalar, const SequenceSizes& z) {
  return with_storage(scalar, [&](auto s) { return tile_count(z) * slots(z) * slot_elements<decltype(s)>(z); });
}

void aru_fwd(Scalar scalar, const AruForward& f) {
  with_storage(scalar, [&](auto s) { forward<decltype(s)>(f); });
}

void aru_bwd(Scalar scalar, const AruBackward& f) {
  with_storage(scalar, [&](auto s) { backward<decltype(s)>(f); });
}

}  // namespace ARU_ISA
}  // namespace aru
