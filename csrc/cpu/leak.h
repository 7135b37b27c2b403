// The leak of the sequences, h_t = (1 - leak) h_{t-1} + leak gamma_t, as passes over rows beside those of the step, so
// that sequences without a leak run as if there were none.
#pragma once

#include "tiles.h"

namespace aru {
namespace ARU_ISA {

// h, which holds gamma_t, becomes h_t.  before: h_{t-1}.  All are [count].
template <class T> void apply_leak(T* h, const T* before, const T* leak, int64_t count) {
  for (int64_t i = 0; i < count; i += lanes<T>) {
    const int64_t left = count - i;
    const vec<T> rate = load_first(leak + i, left);
    store_first(h + i, (T(1) - rate) * load_first(before + i, left) + rate * load_first(h + i, left), left);
  }
}

// The leak of each row (b, i) of a tile, and what the backward pass keeps of it for the tile; null without a leak.
template <class T> struct TileLeak {
  const T* rate = nullptr;   // [rows]
  T* carry = nullptr;        // [rows], the gradient that reaches h_{t-1} beside W_hh^T da_t
  T* sums = nullptr;         // [rows], of d_leak
  double* totals = nullptr;  // [rows]

  explicit operator bool() const { return rate; }

  // One step of the rows from `row` on, which are [count].  dh, the gradient of h_t, becomes that of gamma_t.
  // upstream: the gradient of h_{t-1} from outside, or null.  n, s: of the first of these rows and the following ones.
  void backward(int64_t row, int64_t count, T* dh, const T* upstream, const T* before, const T* a, const T* n,
                const T* s, double n_floor) const {
    for (int64_t i = 0; i < count; i += lanes<T>) {
      const int64_t left = count - i, r = row + i;
      const vec<T> own = load_first(rate + r, left), d = load_first(dh + r, left);
      const vec<T> y =
          gamma_value(load_first(a + r, left), load_first(n + i, left), load_first(s + i, left), T(n_floor));
      vec<T> past = (T(1) - own) * d;
      if (upstream) past += load_first(upstream + r, left);
      store_first(carry + r, past, left);
      store_first(sums + r, load_first(sums + r, left) + d * (y - load_first(before + r, left)), left);
      store_first(dh + r, own * d, left);
    }
  }

  // Adds the sums of these rows to their totals.
  void flush(int64_t row, int64_t count) const {
    for (int64_t r = row; r < row + count; ++r) {
      totals[r] += double(sums[r]);
      sums[r] = T(0);
    }
  }
};

// The leak of one call, for all its tiles; without memory if `leak`, which is [H], is null.
template <class T> class Leak {
 public:
  Leak(const SequenceSizes& z, const void* leak, bool backward)
      : sizes_(z),
        rows_(leak ? padded_rows<T>(z) : 0),
        rates_(rows_),
        carries_(backward ? tile_count(z) * rows_ : 0),
        sums_(backward ? tile_count(z) * rows_ : 0),
        totals_(backward ? tile_count(z) * rows_ : 0) {
    if (!leak) return;
    for (int64_t r = 0; r < rows_; ++r) rates_.get()[r] = *at<T>(leak, r % z.H);
    if (!backward) return;
    std::memset(sums_.get(), 0, sizeof(T) * size_t(tile_count(z) * rows_));
    std::memset(totals_.get(), 0, sizeof(double) * size_t(tile_count(z) * rows_));
  }

  TileLeak<T> of_tile(int64_t i) const {
    TileLeak<T> own;
    if (rows_ == 0) return own;
    own.rate = rates_.get();
    own.carry = carries_.from(i * rows_);
    own.sums = sums_.from(i * rows_);
    own.totals = totals_.from(i * rows_);
    return own;
  }

  // d_leak: [H].
  void finish(T* d_leak) const {
    for (int64_t i = 0; rows_ && i < sizes_.H; ++i) {
      double sum = 0;
      for (int64_t k = 0; k < tile_count(sizes_); ++k)
        for (int64_t b = 0; b < Tile(sizes_, k).count; ++b) sum += totals_.get()[k * rows_ + b * sizes_.H + i];
      d_leak[i] = T(sum);
    }
  }

 private:
  SequenceSizes sizes_;
  int64_t rows_;
  Buffer<T> rates_, carries_, sums_;
  Buffer<double> totals_;
};

}  // namespace ARU_ISA
}  // namespace aru
