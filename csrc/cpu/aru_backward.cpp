// The adaptive network, back-propagation through time.  Compiled once per instruction set.
#include "kernels.h"
#include "leak.h"
#include "segments.h"

namespace aru {
namespace ARU_ISA {
namespace {

// a of R strips, and the gradients that reach them through a (by gamma and from outside), n and s.
template <class T, int R> struct Upstream {
  Strip<T> a[R], dx[R], dn[R], ds[R];
};

// Of the part's strips from the i-th on.  row: their first row in the tile; left: rows of the tile from there on.
template <class S, int R, bool leaky>
ARU_FUNCTION Upstream<scalar_of<S>, R> upstream_of(const AruBackward& f, int64_t rows, int64_t row, int64_t left,
                                                   const Segment<S>& segment, int64_t t, int64_t i,
                                                   const scalar_of<S>* dh, const StepLeak<scalar_of<S>>& leak) {
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
    Strip<T> d_h = load_strip(dh + row + next, left - next);
    if constexpr (leaky) {
      const Strip<T> value = strip_of<T>(d.value, q);
      for (int r = 0; r < strip_vectors; ++r) {
        const int64_t lane = next + r * lanes<T>;
        d_h.v[r] = leak.through(row + lane, left - lane, d_h.v[r], value.v[r]);
      }
    }
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

// One step of R strips of the part, from the i-th on: fills du and da, and adds to the sums of all weight gradients but
// that of W_gg.
template <class S, int R, bool leaky>
void backward_strips(const AruBackward& f, const Controller<S>& c, const Tile& tile, const Part& part, int64_t t,
                     int64_t i, const Segment<S>& segment, const scalar_of<S>* dh, BackwardScratch<S>& own,
                     const StepLeak<scalar_of<S>>& leak) {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  const int64_t size = strip_elements<S>(c.G), dg_size = gradient_elements<S>(c.G);
  const int64_t rows = t * f.sizes.B * f.sizes.H + tile.offset, row = (part.first + i) * strip<T>;
  const int64_t ahead = (t ? rows - f.sizes.B * f.sizes.H : rows) + row;
  for (int q = 0; q < R; ++q) {
    const int64_t place = ahead + q * strip<T>;
    prefetch_row_to_write(at<T>(f.d_xp, place));
    for (const void* in : {f.a, f.d_h, f.n, f.s})
      if (in) prefetch_row(at<T>(in, place));
  }
  auto up = upstream_of<S, R, leaky>(f, rows, row, tile.rows - row, segment, t, i, dh, leak);

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

// Strips that share the loads and stores of the sums, which saves 7% of the backward pass on Zen 4 (8% at G = 24) if
// their g, dg and du stay in the first-level cache; otherwise it costs 3 to 5%.  AVX2 has too few registers for it.
constexpr int strips_together = strip_vectors == 1 ? 4 : 1;
template <class S> bool fit_together(int64_t G) {
  return strips_together *
             (2 * sizeof(stored_of<S>) * strip_elements<S>(G) + sizeof(scalar_of<S>) * gradient_elements<S>(G)) <=
         20 * 1024;
}

template <class S, bool leaky>
void backward_tile(const AruBackward& f, const Weights<S>& w, const Tile& tile, scalar_of<S>* dh, double* totals,
                   const TileLeak<scalar_of<S>>& leak, const Member& member) {
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
      multiply(w.recurrent, at<T>(f.d_xp, rows + step), leaky ? leak.carry : upstream, dh, tile.count,
               member.begin(panels), member.end(panels));
    } else if (member.index == 0) {
      sum_or_zero(dh, upstream, at<T>(f.d_h_last, tile.offset), tile.rows);
    }
    member.wait();  // for all of dh_t
    const StepLeak<T> step_leak{leak, t ? at<T>(f.d_h, rows - step) : nullptr,
                                t ? at<T>(f.h, rows - step) : at<T>(f.h0, tile.offset)};
    for (int64_t p = member.index; p < parts; p += member.size) {
      const Part part(z, strips, p);
      BackwardScratch<S>& own = scratch[p];
      Segment<S>& segment = segments[p];
      if (t < segment.t0)
        segment = z.segment == 1 ? read_kept<S>(f, tile, part, t, own)
                                 : recompute<S>(f, c, tile, part, t / z.segment * z.segment, own);
      for (int64_t first = 0; first < part.count; first += chunk) {
        const int64_t end = at_most(first + chunk, part.count);
        int64_t i = first;
        if (together)
          for (; i + strips_together <= end; i += strips_together)
            backward_strips<S, strips_together, leaky>(f, c, tile, part, t, i, segment, dh, own, step_leak);
        for (; i < end; ++i) backward_strips<S, 1, leaky>(f, c, tile, part, t, i, segment, dh, own, step_leak);
        own.sums.add_products(own.du + first * size, segment.g_before(t) + first * size, end - first);
      }
      // Often enough that a float sum keeps its accuracy over any number of steps.
      if (t % 16 == 0) {
        own.sums.flush(totals + p * WeightSums<S>::total_elements(z.G));
        const int64_t row = part.first * strip<T>;
        if (leaky) leak.flush(row, at_most(part.count * strip<T>, tile.rows - row));
      }
    }
    member.wait();  // for all of da_t
  }

  if (f.weight_hh)
    multiply<T>(w.recurrent, at<T>(f.d_xp, tile.offset), leak.carry, at<T>(f.d_h0, tile.offset), tile.count,
                member.begin(panels), member.end(panels));
  for (int64_t p = member.index; p < parts; p += member.size) {
    const Part part(z, strips, p);
    for (int64_t i = 0; i < part.count; ++i) {
      const int64_t row = (part.first + i) * strip<T>;
      rows_from_strip<Whole<T>>(scratch[p].dg + i * dg_size, tile.rows - row, z.G,
                                at<T>(f.d_g0, (tile.offset + row) * z.G));
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
  const Leak<T> leak(z, f.leak, true);
  std::memset(totals.get(), 0, sizeof(double) * size_t(tiles * parts * elements));
  const auto of_tile = f.leak ? backward_tile<S, true> : backward_tile<S, false>;
  parallel_teams(tiles, parts, f.threads, [&](int64_t i, const Member& member) {
    of_tile(f, w, Tile(z, i), dh.get() + i * rows, totals.get() + i * parts * elements, leak.of_tile(i), member);
  });
  // The order is that of WeightSums' totals.
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
  leak.finish(at<T>(f.d_leak, 0));
  if (f.weight_hh)
    recurrent_weight_gradient(z, at<T>(f.d_xp, 0), at<T>(f.h, 0), at<T>(f.h0, 0), at<T>(f.d_weight_hh, 0), f.threads);
}

}  // namespace

void aru_bwd(Scalar scalar, const AruBackward& f) {
  with_storage(scalar, [&](auto s) { backward<decltype(s)>(f); });
}

}  // namespace ARU_ISA
}  // namespace aru
