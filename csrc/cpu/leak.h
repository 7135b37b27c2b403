// The leak of the sequences, h_t = (1 - leak) h_{t-1} + leak gamma_t: a pass over rows in the forward direction, and a
// part of the step in the backward one, so that sequences without a leak run as if there were none.
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

  // Adds the sums of these rows to their totals.
  void flush(int64_t row, int64_t count) const {
    for (int64_t r = row; r < row + count; ++r) {
      totals[r] += double(sums[r]);
      sums[r] = T(0);
    }
  }
};

// The leak in one step of the backward pass.
template <class T> struct StepLeak {
  const TileLeak<T>& tile;
  const T* upstream;  // [rows], the gradient of h_{t-1} from outside, or null
  const T* before;    // [rows], h_{t-1}

  // The gradient of gamma_t, whose value is y, from that of h_t; of a vector of rows, the first `left` of them.
  ARU_MEMBER vec<T> through(int64_t row, int64_t left, vec<T> d_h, vec<T> y) const {
    const vec<T> own = load_first(tile.rate + row, left);
    vec<T> past = (T(1) - own) * d_h;
    if (upstream) past += load_first(upstream + row, left);
    store_first(tile.carry + row, past, left);
    store_first(tile.sums + row, load_first(tile.sums + row, left) + d_h * (y - load_first(before + row, left)), left);
    return own * d_h;
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
