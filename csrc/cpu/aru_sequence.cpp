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

template <class T> int64_t slot_elements(const SequenceSizes& z) {
  return strips_per_tile<T>(z) * strip_elements(z.G, strip<T>);
}

template <class T> T* kept_of_tile(const SequenceSizes& z, void* kept, int64_t tile) {
  return at<T>(kept, tile * slots(z) * slot_elements<T>(z));
}

// The packed weights of one call.
template <class T> struct Weights {
  Buffer<T> memory;
  Packed<T> recurrent{};
  Controller<T> controller;

  Weights(const SequenceSizes& z, const void* weight_hh, bool transpose, const ControllerWeights& w)
      : memory(Controller<T>::elements(z.G) + (weight_hh ? Packed<T>::elements(z.H) : 0)),
        controller(Controller<T>::pack(z.G, at<T>(w.weight_ag, 0), at<T>(w.weight_gg, 0), at<T>(w.bias_g, 0),
                                       at<T>(w.weight_gc, 0), at<T>(w.bias_c, 0), memory.get())) {
    if (weight_hh)
      recurrent = Packed<T>::pack(at<T>(weight_hh, 0), z.H, transpose, memory.get() + Controller<T>::elements(z.G));
  }
};

template <class T>
Strip<T> gamma_strip(const Strip<T>& a, const Strip<T>& n, const Strip<T>& s, T n_floor) {
  Strip<T> h;
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) h.v[r] = gamma_value(a.v[r], n.v[r], s.v[r], n_floor);
  return h;
}

// Part p of a tile: strips [first, first + count).
struct Part {
  int64_t first, count;

  Part(const SequenceSizes& z, int64_t strips, int64_t p)
      : first(strips * p / part_count(z)), count(strips * (p + 1) / part_count(z) - first) {}
};

// Where the state is not kept, strip i of a part at step t lies in slot (i - t) mod (count + 1) of a ring: what a strip
// writes takes the place of what its predecessor has read, and the part's state stays as small as it can be.
template <class T> struct Ring {
  T* memory = nullptr;
  int64_t slots = 0, size = 0, shift = 0;  // shift: t mod slots

  T* slot(int64_t i) const { return memory + (i >= shift ? i - shift : i - shift + slots) * size; }
  T* next_slot(int64_t i) const { return i > shift ? slot(i - 1) : slot(i + slots - 1); }
  void advance() { shift = shift + 1 == slots ? 0 : shift + 1; }
};

template <class T>
void forward_tile(const AruForward& f, const Weights<T>& w, const Tile& tile, T* scratch_a, const Member& member) {
  const SequenceSizes& z = f.sizes;
  const int64_t step = z.B * z.H, size = strip_elements(z.G, strip<T>), strips = ceil_div(tile.rows, strip<T>);
  const int64_t slot = slot_elements<T>(z), parts = part_count(z), panels = w.recurrent.panels(z.H);
  const bool keep_all = f.kept && z.segment == 1;
  T* kept = kept_of_tile<T>(z, f.kept, tile.index);

  Ring<T> rings[most_parts];
  const auto carve_rings = [&](Carver carve) {
    for (int64_t p = member.index; p < parts; p += member.size) {
      const int64_t ring_slots = keep_all ? 0 : Part(z, strips, p).count + 1;
      rings[p] = {carve.take<T>(ring_slots * size), ring_slots, size};
    }
    return carve.used();
  };
  carve_rings(Carver(thread_scratch(carve_rings(Carver()))));

  // Nothing of what is kept stays undefined: not the padding of a strip, nor what a last, smaller tile does not use.
  const auto pad = [&](T* strip_of_state) {
    if (z.G % 2 == 0) std::memset(strip_of_state + z.G * strip<T>, 0, sizeof(T) * strip<T>);
  };
  if (kept && strips * size < slot && member.index == 0)
    for (int64_t k = 0; k < slots(z); ++k)
      std::memset(kept + k * slot + strips * size, 0, sizeof(T) * size_t(slot - strips * size));

  for (int64_t p = member.index; p < parts; p += member.size) {
    const Part part(z, strips, p);
    for (int64_t k = 0; k < part.count; ++k) {
      const int64_t i = part.first + k;
      T* g = keep_all ? kept + i * size : rings[p].slot(k);
      pad(g);
      strip_from_rows(at<T>(f.g0, (tile.offset + i * strip<T>)*z.G), tile.rows - i * strip<T>, z.G, g);
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
      Ring<T>& ring = rings[p];
      for (int64_t k = 0; k < part.count; ++k) {
        const int64_t i = part.first + k, row = i * strip<T>, left = tile.rows - row;
        const T* g = keep_all ? kept + t * slot + i * size : ring.slot(k);
        T* g_next = keep_all ? kept + (t + 1) * slot + i * size : ring.next_slot(k);
        if (checkpoint) std::memcpy(kept + t / z.segment * slot + i * size, g, sizeof(T) * size_t(size));
        const Strip<T> a = load_strip(a_rows + row, left);
        Strip<T> n, s;
        w.controller.step(a, g, g_next, n, s);
        if (f.kept) pad(g_next);
        if (f.n) {
          store_strip(at<T>(f.n, rows) + row, n, left);
          store_strip(at<T>(f.s, rows) + row, s, left);
        }
        store_strip(h + row, gamma_strip(a, n, s, T(f.n_floor)), left);
      }
      ring.advance();
    }
    member.wait();  // for all of h_t
  }
  for (int64_t p = member.index; p < parts; p += member.size) {
    const Part part(z, strips, p);
    for (int64_t k = 0; k < part.count; ++k) {
      const int64_t i = part.first + k;
      const T* g = keep_all ? kept + z.T * slot + i * size : rings[p].slot(k);
      rows_from_strip(g, tile.rows - i * strip<T>, z.G, at<T>(f.g_last, (tile.offset + i * strip<T>)*z.G));
    }
  }
}

template <class T> void forward(const AruForward& f) {
  const SequenceSizes& z = f.sizes;
  const Weights<T> w(z, f.weight_hh, true, f.controller);
  const int64_t tiles = tile_count(z), rows = padded_rows<T>(z);
  const Buffer<T> scratch_a(f.a ? 0 : tiles * rows);
  parallel_teams(tiles, part_count(z), f.threads, [&](int64_t i, const Member& member) {
    forward_tile(f, w, Tile(z, i), scratch_a.get() + i * rows, member);
  });
}

// The state of a part of a tile over one segment of steps: what was kept, or what is computed again from it.
template <class T> struct Segment {
  int64_t t0 = 0;
  const T* before = nullptr;            // g before step t0
  const T* after = nullptr;             // g after step t0, and so on
  const T *n = nullptr, *s = nullptr;   // of step t0
  int64_t slot = 0, step = 0;           // distance between the steps in `after`, and in n and s

  const T* g(int64_t t) const { return after + (t - t0) * slot; }
  const T* g_before(int64_t t) const { return t == t0 ? before : g(t - 1); }
};

template <class T>
const T* kept_of_part(const AruBackward& f, const Tile& tile, const Part& part, int64_t slot) {
  return kept_of_tile<const T>(f.sizes, const_cast<void*>(f.kept), tile.index) + slot * slot_elements<T>(f.sizes) +
         part.first * strip_elements(f.sizes.G, strip<T>);
}

// What a part of a tile needs in the backward pass.
template <class T> struct BackwardScratch {
  T *g, *n, *s;  // of a segment, computed again
  T *du, *dg;    // of a step
  WeightSums<T> sums;

  void carve(const SequenceSizes& z, const Part& part, Carver& carver) {
    const int64_t size = part.count * strip_elements(z.G, strip<T>), again = z.segment == 1 ? 0 : at_most(z.segment, z.T);
    g = carver.take<T>(again * size);
    n = carver.take<T>(again * part.count * strip<T>);
    s = carver.take<T>(again * part.count * strip<T>);
    du = carver.take<T>(size);
    dg = carver.take<T>(size);
    sums.carve(z.G, carver);
  }
};

// Computes g, n and s of a segment again, strip after strip so that a strip's state stays in the cache.
template <class T>
Segment<T> recompute(const AruBackward& f, const Controller<T>& controller, const Tile& tile, const Part& part,
                     int64_t t0, const BackwardScratch<T>& scratch) {
  const SequenceSizes& z = f.sizes;
  const int64_t size = strip_elements(z.G, strip<T>), padded = part.count * strip<T>, slot = part.count * size;
  const T* before = kept_of_part<T>(f, tile, part, t0 / z.segment);
  const int64_t t1 = at_most(t0 + z.segment, z.T);
  for (int64_t i = 0; i < part.count; ++i) {
    const T* g = before + i * size;
    for (int64_t t = t0; t < t1; ++t) {
      const int64_t row = (part.first + i) * strip<T>, k = t - t0;
      const Strip<T> a = load_strip(at<T>(f.a, t * z.B * z.H + tile.offset) + row, tile.rows - row);
      Strip<T> n, s;
      T* g_next = scratch.g + k * slot + i * size;
      controller.step(a, g, g_next, n, s);
      store_strip(scratch.n + k * padded + i * strip<T>, n);
      store_strip(scratch.s + k * padded + i * strip<T>, s);
      g = g_next;
    }
  }
  return {t0, before, scratch.g, scratch.n, scratch.s, slot, padded};
}

template <class T> Segment<T> read_kept(const AruBackward& f, const Tile& tile, const Part& part, int64_t t0) {
  const SequenceSizes& z = f.sizes;
  const int64_t slot = slot_elements<T>(z), step = z.B * z.H, rows = t0 * step + tile.offset + part.first * strip<T>;
  const T* before = kept_of_part<T>(f, tile, part, t0);
  return {t0, before, before + slot, at<T>(f.n, rows), at<T>(f.s, rows), slot, step};
}

// One step of one strip, the i-th of its part and `row` the first of its rows in the tile, up to du: fills du and da,
// updates the sums for the vectors and the read-out.
template <class T>
void backward_strip(const AruBackward& f, const Controller<T>& c, int64_t rows, int64_t row, int64_t left,
                    const Segment<T>& segment, int64_t t, int64_t i, const T* dh, const T* dg, T* du,
                    WeightSums<T>& sums) {
  const int64_t size = strip_elements(c.G, strip<T>), place = (t - segment.t0) * segment.step + i * strip<T>;
  const Strip<T> a = load_strip(at<T>(f.a, rows) + row, left), upstream = load_strip(dh + row, left);
  const Strip<T> n = load_strip(segment.n + place, left), s = load_strip(segment.s + place, left);
  Strip<T> dx, dn, ds;
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) {
    const auto d = gamma_derivatives(a.v[r], n.v[r], s.v[r], T(f.n_floor));
    dx.v[r] = upstream.v[r] * d.dx;
    dn.v[r] = upstream.v[r] * d.dn;
    ds.v[r] = upstream.v[r] * d.ds;
  }
  const auto add = [&](Strip<T>& to, const void* more) {
    if (!more) return;
    const Strip<T> extra = load_strip(at<T>(more, rows) + row, left);
    for (int r = 0; r < strip_vectors; ++r) to.v[r] += extra.v[r];
  };
  add(dx, f.d_a);
  add(dn, f.d_n);
  add(ds, f.d_s);

  const T* g = segment.g(t) + i * size;
  const T* g_before = segment.g_before(t) + i * size;  // read soon, by the products for dW_gg
  for (int64_t j = 0; j < c.G; ++j) {
    const T weight_n = c.weight_n[j], weight_s = c.weight_s[j], weight_ag = c.weight_ag[j];
    vec<T>* to = sums.of_unit(j);
    vec<T> sum_du = to[0], sum_du_a = to[1], sum_dn_g = to[2], sum_ds_g = to[3];
    const Strip<T> gj = load_strip(g + j * strip<T>), dgj = load_strip(dg + j * strip<T>);
    Strip<T> duj;
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) {
      __builtin_prefetch(g_before + (j * strip_vectors + r) * lanes<T>, 0, 2);
      vec<T> d = dgj.v[r] + dn.v[r] * weight_n + ds.v[r] * weight_s;
      d = d * (T(1) - gj.v[r] * gj.v[r]);
      duj.v[r] = d;
      dx.v[r] += d * weight_ag;
      sum_du += d;
      sum_du_a += d * a.v[r];
      sum_dn_g += dn.v[r] * gj.v[r];
      sum_ds_g += ds.v[r] * gj.v[r];
    }
    store_strip(du + j * strip<T>, duj);
    to[0] = sum_du, to[1] = sum_du_a, to[2] = sum_dn_g, to[3] = sum_ds_g;
  }
  for (int r = 0; r < strip_vectors; ++r) {
    sums.bias_c()[0] += dn.v[r];
    sums.bias_c()[1] += ds.v[r];
  }
  store_strip(at<T>(f.d_xp, rows) + row, dx, left);
}

template <class T>
void backward_tile(const AruBackward& f, const Weights<T>& w, const Tile& tile, T* dh, double* totals,
                   const Member& member) {
  const SequenceSizes& z = f.sizes;
  const Controller<T>& c = w.controller;
  const int64_t step = z.B * z.H, size = strip_elements(z.G, strip<T>), strips = ceil_div(tile.rows, strip<T>);
  const int64_t parts = part_count(z), panels = w.recurrent.panels(z.H);
  // du and g of a chunk of strips stay in the second-level cache until dW_gg has read them.
  const int64_t chunk = ceil_div(128 * 1024, int64_t(sizeof(T)) * size);

  BackwardScratch<T> scratch[most_parts];
  Segment<T> segments[most_parts];
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
      T* dg = scratch[p].dg + i * size;
      if (f.d_g_last) {
        strip_from_rows(at<T>(f.d_g_last, (tile.offset + row) * z.G), tile.rows - row, z.G, dg);
      } else {
        std::memset(dg, 0, sizeof(T) * size_t(size));
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
      BackwardScratch<T>& own = scratch[p];
      Segment<T>& segment = segments[p];
      if (t < segment.t0)
        segment = z.segment == 1 ? read_kept<T>(f, tile, part, t)
                                 : recompute(f, c, tile, part, t / z.segment * z.segment, own);
      for (int64_t first = 0; first < part.count; first += chunk) {
        const int64_t end = at_most(first + chunk, part.count);
        for (int64_t i = first; i < end; ++i) {
          const int64_t row = (part.first + i) * strip<T>;
          T *dg = own.dg + i * size, *du = own.du + i * size;
          backward_strip(f, c, rows, row, tile.rows - row, segment, t, i, dh, dg, du, own.sums);
          c.backward(du, dg);
        }
        own.sums.add_products(own.du + first * size, segment.g_before(t) + first * size, end - first);
      }
      // Often enough that a float sum keeps its accuracy over any number of steps.
      if (t % 16 == 0) own.sums.flush(totals + p * WeightSums<T>::total_elements(z.G));
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
      rows_from_strip(scratch[p].dg + i * size, tile.rows - row, z.G, at<T>(f.d_g0, (tile.offset + row) * z.G));
    }
  }
}

template <class T> void backward(const AruBackward& f) {
  const SequenceSizes& z = f.sizes;
  const Weights<T> w(z, f.weight_hh, false, f.controller);
  const int64_t tiles = tile_count(z), parts = part_count(z), rows = padded_rows<T>(z);
  const int64_t G = z.G, elements = WeightSums<T>::total_elements(G);
  const Buffer<T> dh(tiles * rows);
  const Buffer<double> totals(tiles * parts * elements);
  std::memset(totals.get(), 0, sizeof(double) * size_t(tiles * parts * elements));
  parallel_teams(tiles, parts, f.threads, [&](int64_t i, const Member& member) {
    backward_tile(f, w, Tile(z, i), dh.get() + i * rows, totals.get() + i * parts * elements, member);
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

int64_t strip_rows(Scalar scalar) { return scalar == Scalar::float32 ? strip<float> : strip<double>; }

int64_t kept_elements(Scalar scalar, const SequenceSizes& z) {
  const int64_t slot = scalar == Scalar::float32 ? slot_elements<float>(z) : slot_elements<double>(z);
  return tile_count(z) * slots(z) * slot;
}

void aru_fwd(Scalar scalar, const AruForward& f) {
  scalar == Scalar::float32 ? forward<float>(f) : forward<double>(f);
}

void aru_bwd(Scalar scalar, const AruBackward& f) {
  scalar == Scalar::float32 ? backward<float>(f) : backward<double>(f);
}

}  // namespace ARU_ISA
}  // namespace aru
