// The static network RNN+gamma: forward and back-propagation through time.  Compiled once per instruction set.
#include "kernels.h"
#include "leak.h"
#include "tiles.h"

namespace aru {
namespace ARU_ISA {
namespace {

template <class T> struct RecurrentWeight {
  Buffer<T> memory;
  Packed<T> packed;

  RecurrentWeight(int64_t H, const void* weight_hh, bool transpose)
      : memory(Packed<T>::elements(H)), packed(Packed<T>::pack(at<T>(weight_hh, 0), H, transpose, memory.get())) {}
};

// The columns of a member of the team that works on a tile: whole panels of the recurrent product.
template <class T> struct Columns {
  int64_t first_panel, end_panel, begin, end;

  Columns(int64_t H, const Member& member)
      : first_panel(member.begin(Packed<T>::panels(H))),
        end_panel(member.end(Packed<T>::panels(H))),
        begin(at_most(Packed<T>::start(H, first_panel) * lanes<T>, H)),
        end(at_most(Packed<T>::start(H, end_panel) * lanes<T>, H)) {}
};

template <class T>
void forward_tile(const GammaRnnForward& f, const RecurrentWeight<T>& w, const Tile& tile, T* scratch_a,
                  const TileLeak<T>& leak, const Member& member) {
  const SequenceSizes& z = f.sizes;
  const Columns<T> own(z.H, member);
  const T *n = at<T>(f.n, 0), *s = at<T>(f.s, 0);
  for (int64_t t = 0; t < z.T; ++t) {
    const int64_t rows = t * z.B * z.H + tile.offset;
    T *h = at<T>(f.h, rows), *a = f.a ? at<T>(f.a, rows) : scratch_a;
    const T* before = t ? h - z.B * z.H : at<T>(f.h0, tile.offset);
    multiply(w.packed, before, at<T>(f.xp, rows), a, tile.count, own.first_panel, own.end_panel);
    const int64_t ahead = t + 1 < z.T ? rows + z.B * z.H : rows;
    for (int64_t b = 0; b < tile.count; ++b) {
      const int64_t place = ahead + b * z.H + own.begin;
      prefetch_rows(at<T>(f.xp, place), own.end - own.begin);
      for (void* out : {f.h, f.a})
        if (out) prefetch_rows_to_write(at<T>(out, place), own.end - own.begin);
      for (int64_t i = own.begin; i < own.end; i += lanes<T>) {
        const int64_t left = own.end - i, row = b * z.H + i;
        const vec<T> x = load_first(a + row, left);
        store_first(h + row, gamma_value(x, load_first(n + i, left), load_first(s + i, left), T(f.n_floor)), left);
      }
      if (leak) {
        const int64_t row = b * z.H + own.begin;
        apply_leak(h + row, before + row, leak.rate + row, own.end - own.begin);
      }
    }
    member.wait();  // for all of h_t
  }
}

template <class T, bool leaky>
void backward_tile(const GammaRnnBackward& f, const RecurrentWeight<T>& w, const Tile& tile, T* dh, double* totals,
                   const TileLeak<T>& leak, const Member& member) {
  const SequenceSizes& z = f.sizes;
  const Columns<T> own(z.H, member);
  const int64_t padded = ceil_div(z.H, lanes<T>) * lanes<T>;
  Carver carve(thread_scratch(2 * size_t(padded) * sizeof(T)));
  T* sums = carve.take<T>(2 * padded);
  std::memset(sums, 0, sizeof(T) * size_t(2 * padded));
  const T *n = at<T>(f.n, 0), *s = at<T>(f.s, 0);
  for (int64_t t = z.T - 1; t >= 0; --t) {
    const int64_t rows = t * z.B * z.H + tile.offset;
    const T *a = at<T>(f.a, rows), *upstream = at<T>(f.d_h, rows), *extra = at<T>(f.d_a, rows);
    T* da = at<T>(f.d_xp, rows);
    if (t + 1 < z.T) {
      multiply(w.packed, da + z.B * z.H, leaky ? leak.carry : upstream, dh, tile.count, own.first_panel, own.end_panel);
    } else if (own.begin < own.end) {
      for (int64_t b = 0; b < tile.count; ++b) {
        const int64_t row = b * z.H + own.begin;
        sum_or_zero(dh + row, at<T>(upstream, row), at<T>(f.d_h_last, tile.offset + row), own.end - own.begin);
      }
    }
    const StepLeak<T> step_leak{leak, t ? at<T>(f.d_h, rows - z.B * z.H) : nullptr,
                                t ? at<T>(f.h, rows - z.B * z.H) : at<T>(f.h0, tile.offset)};
    const int64_t ahead = t ? rows - z.B * z.H : rows;
    for (int64_t b = 0; b < tile.count; ++b) {
      const int64_t place = ahead + b * z.H + own.begin;
      prefetch_rows_to_write(at<T>(f.d_xp, place), own.end - own.begin);
      for (const void* in : {f.a, f.d_h})
        if (in) prefetch_rows(at<T>(in, place), own.end - own.begin);
    }
    for (int64_t i = own.begin; i < own.end; i += lanes<T>) {
      const int64_t left = own.end - i;
      const vec<T> ni = load_first(n + i, left), si = load_first(s + i, left);
      vec<T> sum_n = load(sums + i), sum_s = load(sums + padded + i);
      for (int64_t b = 0; b < tile.count; ++b) {
        const int64_t row = b * z.H + i;
        vec<T> g = load_first(dh + row, left);
        const auto d = gamma_derivatives(load_first(a + row, left), ni, si, T(f.n_floor));
        if (leaky) g = step_leak.through(row, left, g, d.value);
        vec<T> dx = g * d.dx;
        if (extra) dx += load_first(extra + row, left);
        store_first(da + row, dx, left);
        sum_n += g * d.dn;
        sum_s += g * d.ds;
      }
      store(sums + i, sum_n);
      store(sums + padded + i, sum_s);
    }
    if (t % 16 == 0) {  // often enough that a float sum keeps its accuracy over any number of steps
      for (int64_t i = own.begin; i < own.end; ++i) {
        totals[i] += double(sums[i]);
        totals[z.H + i] += double(sums[padded + i]);
      }
      std::memset(sums, 0, sizeof(T) * size_t(2 * padded));
      for (int64_t b = 0; leaky && b < tile.count; ++b) leak.flush(b * z.H + own.begin, own.end - own.begin);
    }
    member.wait();  // for all of da_t
  }
  multiply<T>(w.packed, at<T>(f.d_xp, tile.offset), leak.carry, at<T>(f.d_h0, tile.offset), tile.count, own.first_panel,
              own.end_panel);
}

template <class T> void forward(const GammaRnnForward& f) {
  const SequenceSizes& z = f.sizes;
  const RecurrentWeight<T> w(z.H, f.weight_hh, true);
  const int64_t tiles = tile_count(z), rows = padded_rows<T>(z);
  const Buffer<T> scratch_a(f.a ? 0 : tiles * rows);
  const Leak<T> leak(z, f.leak, false);
  parallel_teams(tiles, part_count(z), f.threads, [&](int64_t i, const Member& member) {
    forward_tile(f, w, Tile(z, i), scratch_a.from(i * rows), leak.of_tile(i), member);
  });
}

template <class T> void backward(const GammaRnnBackward& f) {
  const SequenceSizes& z = f.sizes;
  const RecurrentWeight<T> w(z.H, f.weight_hh, false);
  const int64_t tiles = tile_count(z), rows = padded_rows<T>(z), elements = 2 * z.H;
  const Buffer<T> dh(tiles * rows);
  const Buffer<double> totals(tiles * elements);
  const Leak<T> leak(z, f.leak, true);
  std::memset(totals.get(), 0, sizeof(double) * size_t(tiles * elements));
  const auto of_tile = f.leak ? backward_tile<T, true> : backward_tile<T, false>;
  parallel_teams(tiles, part_count(z), f.threads, [&](int64_t i, const Member& member) {
    of_tile(f, w, Tile(z, i), dh.get() + i * rows, totals.get() + i * elements, leak.of_tile(i), member);
  });
  sum_parts(totals.get(), tiles, elements, z.H, at<T>(f.d_n, 0));
  sum_parts(totals.get() + z.H, tiles, elements, z.H, at<T>(f.d_s, 0));
  leak.finish(at<T>(f.d_leak, 0));
  recurrent_weight_gradient(z, at<T>(f.d_xp, 0), at<T>(f.h, 0), at<T>(f.h0, 0), at<T>(f.d_weight_hh, 0), f.threads);
}

}  // namespace

void gamma_rnn_fwd(Scalar scalar, const GammaRnnForward& f) {
  scalar == Scalar::float64 ? forward<double>(f) : forward<float>(f);
}

void gamma_rnn_bwd(Scalar scalar, const GammaRnnBackward& f) {
  scalar == Scalar::float64 ? backward<double>(f) : backward<float>(f);
}

}  // namespace ARU_ISA
}  // namespace aru
