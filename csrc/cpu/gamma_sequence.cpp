// The static network RNN+gamma: forward and back-propagation through time.  Compiled once per instruction set.
#include "kernels.h"
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

template <class T> void forward_tile(const GammaRnnForward& f, const RecurrentWeight<T>& w, const Tile& tile) {
  const SequenceSizes& z = f.sizes;
  Carver carve(thread_scratch(size_t(tile.rows) * sizeof(T) + 64));
  T* scratch_a = carve.take<T>(tile.rows);
  const T *n = at<T>(f.n, 0), *s = at<T>(f.s, 0);
  for (int64_t t = 0; t < z.T; ++t) {
    const int64_t rows = t * z.B * z.H + tile.offset;
    T *h = at<T>(f.h, rows), *a = f.a ? at<T>(f.a, rows) : scratch_a;
    multiply(w.packed, t ? h - z.B * z.H : at<T>(f.h0, tile.offset), at<T>(f.xp, rows), a, tile.count);
    for (int64_t b = 0; b < tile.count; ++b)
      for (int64_t i = 0; i < z.H; i += lanes<T>) {
        const int64_t left = z.H - i, row = b * z.H + i;
        const vec<T> x = load_first(a + row, left);
        store_first(h + row, gamma_value(x, load_first(n + i, left), load_first(s + i, left), T(f.n_floor)), left);
      }
  }
}

template <class T>
void backward_tile(const GammaRnnBackward& f, const RecurrentWeight<T>& w, const Tile& tile, double* totals) {
  const SequenceSizes& z = f.sizes;
  const int64_t padded = ceil_div(z.H, lanes<T>) * lanes<T>;
  Carver count;
  count.take<T>(tile.rows);
  count.take<T>(2 * padded);
  Carver carve(thread_scratch(count.used()));
  T* dh = carve.take<T>(tile.rows);
  T* sums = carve.take<T>(2 * padded);
  std::memset(sums, 0, sizeof(T) * size_t(2 * padded));
  const T *n = at<T>(f.n, 0), *s = at<T>(f.s, 0);
  for (int64_t t = z.T - 1; t >= 0; --t) {
    const int64_t rows = t * z.B * z.H + tile.offset;
    const T *a = at<T>(f.a, rows), *upstream = at<T>(f.d_h, rows), *extra = at<T>(f.d_a, rows);
    T* da = at<T>(f.d_xp, rows);
    if (t + 1 < z.T) {
      multiply(w.packed, da + z.B * z.H, upstream, dh, tile.count);
    } else {
      copy_or_zero(dh, upstream, tile.rows);
    }
    for (int64_t i = 0; i < z.H; i += lanes<T>) {
      const int64_t left = z.H - i;
      const vec<T> ni = load_first(n + i, left), si = load_first(s + i, left);
      vec<T> sum_n = load(sums + i), sum_s = load(sums + padded + i);
      for (int64_t b = 0; b < tile.count; ++b) {
        const int64_t row = b * z.H + i;
        const vec<T> g = load_first(dh + row, left);
        const auto d = gamma_derivatives(load_first(a + row, left), ni, si, T(f.n_floor));
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
      for (int64_t i = 0; i < z.H; ++i) {
        totals[i] += double(sums[i]);
        totals[z.H + i] += double(sums[padded + i]);
      }
      std::memset(sums, 0, sizeof(T) * size_t(2 * padded));
    }
  }
  multiply<T>(w.packed, at<T>(f.d_xp, tile.offset), nullptr, at<T>(f.d_h0, tile.offset), tile.count);
}

template <class T> void forward(const GammaRnnForward& f) {
  const RecurrentWeight<T> w(f.sizes.H, f.weight_hh, true);
  parallel_for(tile_count(f.sizes), f.threads, [&](int64_t i) { forward_tile(f, w, Tile(f.sizes, i)); });
}

template <class T> void backward(const GammaRnnBackward& f) {
  const SequenceSizes& z = f.sizes;
  const RecurrentWeight<T> w(z.H, f.weight_hh, false);
  const int64_t tiles = tile_count(z), elements = 2 * z.H;
  const Buffer<double> totals(tiles * elements);
  std::memset(totals.get(), 0, sizeof(double) * size_t(tiles * elements));
  parallel_for(tiles, f.threads,
               [&](int64_t i) { backward_tile(f, w, Tile(z, i), totals.get() + i * elements); });
  sum_parts(totals.get(), tiles, elements, z.H, at<T>(f.d_n, 0));
  sum_parts(totals.get() + z.H, tiles, elements, z.H, at<T>(f.d_s, 0));
  recurrent_weight_gradient(z, at<T>(f.d_xp, 0), at<T>(f.h, 0), at<T>(f.h0, 0), at<T>(f.d_weight_hh, 0), f.threads);
}

}  // namespace

void gamma_rnn_fwd(Scalar scalar, const GammaRnnForward& f) {
  scalar == Scalar::float32 ? forward<float>(f) : forward<double>(f);
}

void gamma_rnn_bwd(Scalar scalar, const GammaRnnBackward& f) {
  scalar == Scalar::float32 ? backward<float>(f) : backward<double>(f);
}

}  // namespace ARU_ISA
}  // namespace aru
