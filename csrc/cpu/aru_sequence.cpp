// The adaptive network: forward and back-propagation through time.  Compiled once per instruction set.
#include "controller.h"
#include "kernels.h"
#include "tiles.h"
#include "weight_sums.h"

namespace aru {
namespace ARU_ISA {
namespace {

int64_t slots(const SequenceSizes& z) { return z.segment == 1 ? z.T + 1 : ceil_div(z.T, z.segment); }

template <class T> int64_t strips_per_tile(const SequenceSizes& z) {
  return ceil_div(at_most(z.tile, z.B) * z.H, strip<T>);
}

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

template <class T> void forward_tile(const AruForward& f, const Weights<T>& w, const Tile& tile) {
  const SequenceSizes& z = f.sizes;
  const int64_t step = z.B * z.H, size = strip_elements(z.G, strip<T>), strips = ceil_div(tile.rows, strip<T>);
  const int64_t slot = slot_elements<T>(z);
  const bool keep_all = f.kept && z.segment == 1;
  T* kept = kept_of_tile<T>(z, f.kept, tile.index);

  // Where the state is not kept, strip i at step t lies in slot (i - t) mod (strips + 1) of a ring: what a strip
  // writes takes the place of what its predecessor has read, and the tile's state stays as small as it can be.
  Carver count;
  count.take<T>(keep_all ? 0 : (strips + 1) * size);
  count.take<T>(tile.rows);
  Carver carve(thread_scratch(count.used()));
  T* ring = carve.take<T>(keep_all ? 0 : (strips + 1) * size);
  T* scratch_a = carve.take<T>(tile.rows);

  int64_t shift = 0;  // t mod (strips + 1)
  const auto ring_slot = [&](int64_t i) { return ring + (i >= shift ? i - shift : i - shift + strips + 1) * size; };
  const auto state = [&](int64_t t, int64_t i) { return keep_all ? kept + t * slot + i * size : ring_slot(i); };

  // Nothing of what is kept stays undefined: not the padding of a strip, nor what a last, smaller tile does not use.
  const auto pad = [&](T* strip_of_state) {
    if (z.G % 2 == 0) std::memset(strip_of_state + z.G * strip<T>, 0, sizeof(T) * strip<T>);
  };
  if (kept && strips * size < slot)
    for (int64_t k = 0; k < slots(z); ++k)
      std::memset(kept + k * slot + strips * size, 0, sizeof(T) * size_t(slot - strips * size));

  for (int64_t i = 0; i < strips; ++i) {
    pad(state(0, i));
    strip_from_rows(at<T>(f.g0, (tile.offset + i * strip<T>)*z.G), tile.rows - i * strip<T>, z.G, state(0, i));
  }

  for (int64_t t = 0; t < z.T; ++t) {
    const int64_t rows = t * step + tile.offset;
    const T* xp = at<T>(f.xp, rows);
    T *h = at<T>(f.h, rows), *a_out = f.a ? at<T>(f.a, rows) : scratch_a;
    const T* a_rows = a_out;
    if (f.weight_hh) {
      multiply(w.recurrent, t ? h - step : at<T>(f.h0, tile.offset), xp, a_out, tile.count);
    } else if (f.a) {
      std::memcpy(a_out, xp, sizeof(T) * size_t(tile.rows));
    } else {
      a_rows = xp;
    }
    const bool checkpoint = f.kept && !keep_all && t % z.segment == 0;
    const int64_t next_shift = shift == strips ? 0 : shift + 1;
    for (int64_t i = 0; i < strips; ++i) {
      const int64_t row = i * strip<T>, left = tile.rows - row;
      const T* g = state(t, i);
      if (checkpoint) std::memcpy(kept + t / z.segment * slot + i * size, g, sizeof(T) * size_t(size));
      T* g_next;
      if (keep_all) {
        g_next = state(t + 1, i);
      } else {
        g_next = ring + (i >= next_shift ? i - next_shift : i - next_shift + strips + 1) * size;
      }
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
    shift = next_shift;
  }
  for (int64_t i = 0; i < strips; ++i)
    rows_from_strip(state(z.T, i), tile.rows - i * strip<T>, z.G, at<T>(f.g_last, (tile.offset + i * strip<T>)*z.G));
}

template <class T> void forward(const AruForward& f) {
  const Weights<T> w(f.sizes, f.weight_hh, true, f.controller);
  parallel_for(tile_count(f.sizes), f.threads, [&](int64_t i) { forward_tile(f, w, Tile(f.sizes, i)); });
}

// The state of a tile over one segment of steps: what was kept, or what is computed again from it.
template <class T> struct Segment {
  int64_t t0, t1;
  const T* before;   // g before step t0
  const T* after;    // g after step t0, and so on
  const T *n, *s;    // of step t0
  int64_t slot, step;  // distance between the steps in `after`, and in n and s

  const T* g(int64_t t) const { return after + (t - t0) * slot; }
  const T* g_before(int64_t t) const { return t == t0 ? before : g(t - 1); }
};

template <class T> struct BackwardScratch {
  T *g, *n, *s;     // of a segment, computed again
  T *du, *dg, *dh;  // of a step
  WeightSums<T> sums;

  BackwardScratch(const SequenceSizes& z, const Tile& tile) {
    Carver count;
    carve(z, tile, count);
    Carver carver(thread_scratch(count.used()));
    carve(z, tile, carver);
  }

 private:
  void carve(const SequenceSizes& z, const Tile& tile, Carver& carver) {
    const int64_t padded = ceil_div(tile.rows, strip<T>) * strip<T>, slot = slot_elements<T>(z);
    const int64_t again = z.segment == 1 ? 0 : at_most(z.segment, z.T);
    g = carver.take<T>(again * slot);
    n = carver.take<T>(again * padded);
    s = carver.take<T>(again * padded);
    du = carver.take<T>(slot);
    dg = carver.take<T>(slot);
    dh = carver.take<T>(padded);
    sums.carve(z.G, carver);
  }
};

// Computes g, n and s of a segment again, strip after strip so that a strip's state stays in the cache.
template <class T>
Segment<T> recompute(const AruBackward& f, const Controller<T>& controller, const Tile& tile, int64_t t0,
                     const BackwardScratch<T>& scratch) {
  const SequenceSizes& z = f.sizes;
  const int64_t strips = ceil_div(tile.rows, strip<T>), size = strip_elements(z.G, strip<T>);
  const int64_t padded = strips * strip<T>, slot = slot_elements<T>(z);
  const T* before = kept_of_tile<const T>(z, const_cast<void*>(f.kept), tile.index) + t0 / z.segment * slot;
  const int64_t t1 = at_most(t0 + z.segment, z.T);
  for (int64_t i = 0; i < strips; ++i) {
    const T* g = before + i * size;
    for (int64_t t = t0; t < t1; ++t) {
      const int64_t row = i * strip<T>, k = t - t0;
      const Strip<T> a = load_strip(at<T>(f.a, t * z.B * z.H + tile.offset) + row, tile.rows - row);
      Strip<T> n, s;
      T* g_next = scratch.g + k * slot + i * size;
      controller.step(a, g, g_next, n, s);
      store_strip(scratch.n + k * padded + row, n);
      store_strip(scratch.s + k * padded + row, s);
      g = g_next;
    }
  }
  return {t0, t1, before, scratch.g, scratch.n, scratch.s, slot, padded};
}

template <class T> Segment<T> read_kept(const AruBackward& f, const Tile& tile, int64_t t0) {
  const SequenceSizes& z = f.sizes;
  const int64_t slot = slot_elements<T>(z), step = z.B * z.H, rows = t0 * step + tile.offset;
  const T* before = kept_of_tile<const T>(z, const_cast<void*>(f.kept), tile.index) + t0 * slot;
  return {t0, t0 + 1, before, before + slot, at<T>(f.n, rows), at<T>(f.s, rows), slot, step};
}

// One step of one strip, up to du: fills du and da, updates the sums for the vectors and the read-out.
template <class T>
void backward_strip(const AruBackward& f, const Controller<T>& c, int64_t rows, int64_t row, int64_t left,
                    const Segment<T>& segment, int64_t t, int64_t i, const T* dh, const T* dg, T* du,
                    WeightSums<T>& sums) {
  const int64_t size = strip_elements(c.G, strip<T>), place = (t - segment.t0) * segment.step + row;
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
void backward_tile(const AruBackward& f, const Weights<T>& w, const Tile& tile, double* totals) {
  const SequenceSizes& z = f.sizes;
  const Controller<T>& c = w.controller;
  const int64_t step = z.B * z.H, size = strip_elements(z.G, strip<T>), strips = ceil_div(tile.rows, strip<T>);
  BackwardScratch<T> scratch(z, tile);
  scratch.sums.clear();
  // du and g of a chunk of strips stay in the second-level cache until dW_gg has read them.
  const int64_t chunk = at_most(ceil_div(128 * 1024, int64_t(sizeof(T)) * size), strips);

  for (int64_t i = 0; i < strips; ++i) {
    const int64_t row = i * strip<T>;
    T* dg = scratch.dg + i * size;
    if (f.d_g_last) {
      strip_from_rows(at<T>(f.d_g_last, (tile.offset + row) * z.G), tile.rows - row, z.G, dg);
    } else {
      std::memset(dg, 0, sizeof(T) * size_t(size));
    }
  }

  Segment<T> segment{z.T, z.T, nullptr, nullptr, nullptr, nullptr, 0, 0};
  for (int64_t t = z.T - 1; t >= 0; --t) {
    if (t < segment.t0)
      segment = z.segment == 1 ? read_kept<T>(f, tile, t) : recompute(f, c, tile, t / z.segment * z.segment, scratch);
    const int64_t rows = t * step + tile.offset;
    const T* upstream = at<T>(f.d_h, rows);
    if (t + 1 < z.T && f.weight_hh) {
      multiply(w.recurrent, at<T>(f.d_xp, rows + step), upstream, scratch.dh, tile.count);
    } else {
      copy_or_zero(scratch.dh, upstream, tile.rows);
    }
    for (int64_t first = 0; first < strips; first += chunk) {
      const int64_t end = at_most(first + chunk, strips);
      for (int64_t i = first; i < end; ++i) {
        T *dg = scratch.dg + i * size, *du = scratch.du + i * size;
        backward_strip(f, c, rows, i * strip<T>, tile.rows - i * strip<T>, segment, t, i, scratch.dh, dg, du,
                       scratch.sums);
        c.backward(du, dg);
      }
      scratch.sums.add_products(scratch.du + first * size, segment.g_before(t) + first * size, end - first);
    }
    // Often enough that a float sum keeps its accuracy over any number of steps.
    if (t % 16 == 0) scratch.sums.flush(totals);
  }

  if (f.weight_hh) multiply<T>(w.recurrent, at<T>(f.d_xp, tile.offset), nullptr, at<T>(f.d_h0, tile.offset), tile.count);
  for (int64_t i = 0; i < strips; ++i) {
    const int64_t row = i * strip<T>;
    rows_from_strip(scratch.dg + i * size, tile.rows - row, z.G, at<T>(f.d_g0, (tile.offset + row) * z.G));
  }
}

template <class T> void backward(const AruBackward& f) {
  const SequenceSizes& z = f.sizes;
  const Weights<T> w(z, f.weight_hh, false, f.controller);
  const int64_t tiles = tile_count(z), G = z.G, elements = WeightSums<T>::total_elements(G);
  const Buffer<double> totals(tiles * elements);
  std::memset(totals.get(), 0, sizeof(double) * size_t(tiles * elements));
  parallel_for(tiles, f.threads,
               [&](int64_t i) { backward_tile(f, w, Tile(z, i), totals.get() + i * elements); });
  // In the order of WeightSums' totals.
  const double* from = totals.get();
  const auto finish = [&](void* out, int64_t count) {
    sum_parts(from, tiles, elements, count, static_cast<T*>(out));
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
