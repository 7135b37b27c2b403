// Strips of rows: neurons along the SIMD lanes, and the controller's state of a strip in memory.
//
// A strip is strip_vectors vectors of consecutive rows r = (b, i) of a tile.  Its state is stored as [G][strip lanes],
// or as [G/2][...] where units come in pairs, padded to an odd number of entries so that strips do not compete for the
// same cache sets.
#pragma once

#include "simd.h"

namespace aru {
namespace ARU_ISA {

constexpr int strip_vectors = ARU_VECTOR_BYTES == 64 ? 1 : 2;  // controller.h counts the registers
template <class T> constexpr int strip = strip_vectors * lanes<T>;

// The storage of the state g, and of du in the backward pass, for products with them: unchanged, or as bfloat16 with
// two units in a 32-bit lane, which a processor multiplies and adds in one instruction.
template <class T> struct Whole {
  using scalar = T;
  using stored = T;
  static constexpr int units = 1;  // per stored lane
};
struct Paired {
  using scalar = float;
  using stored = int32_t;
  static constexpr int units = 2;
};
template <class S> using scalar_of = typename S::scalar;
template <class S> using stored_of = typename S::stored;

// G, or G + 1 if units come in pairs and G is odd; the state of the added unit, whose weights are zero, stays 0.
template <class S> int64_t padded_units(int64_t G) { return (G + S::units - 1) / S::units * S::units; }

template <class S> int64_t strip_elements(int64_t G) {
  return (padded_units<S>(G) / S::units | 1) * strip<scalar_of<S>>;
}

template <class T> struct Strip {
  vec<T> v[strip_vectors];  // [strip lanes]
};

template <class T> ARU_FUNCTION Strip<T> load_strip(const T* p) {
  Strip<T> s;
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) s.v[r] = load(p + r * lanes<T>);
  return s;
}
template <class T> ARU_FUNCTION void store_strip(T* p, const Strip<T>& s) {
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) store(p + r * lanes<T>, s.v[r]);
}
// The first `count` rows; the other lanes are zero.
template <class T> ARU_FUNCTION Strip<T> load_strip(const T* p, int64_t count) {
  if (count >= strip<T>) return load_strip(p);
  Strip<T> s;
  for (int r = 0; r < strip_vectors; ++r) {
    const int64_t left = count - r * lanes<T>;
    s.v[r] = left > 0 ? load_first(p + r * lanes<T>, left) : vec<T>{};
  }
  return s;
}
template <class T> ARU_FUNCTION void store_strip(T* p, const Strip<T>& s, int64_t count) {
  if (count >= strip<T>) return store_strip(p, s);
  for (int r = 0; r < strip_vectors; ++r) {
    const int64_t left = count - r * lanes<T>;
    if (left > 0) store_first(p + r * lanes<T>, s.v[r], left);
  }
}

// Loads and stores the units of one stored entry: of one vector, and of a strip.
template <class T> ARU_FUNCTION void load_vectors(Whole<T>, const T* p, vec<T> (&units)[1]) { units[0] = load(p); }
template <class T> ARU_FUNCTION void store_vectors(Whole<T>, T* p, const vec<T> (&units)[1]) { store(p, units[0]); }
ARU_FUNCTION void load_vectors(Paired, const int32_t* p, vfloat (&units)[2]) {
  const vint32 pair = load(p);
  units[0] = low_of_pair(pair);
  units[1] = high_of_pair(pair);
}
ARU_FUNCTION void store_vectors(Paired, int32_t* p, const vfloat (&units)[2]) {
  store(p, pair_bfloat16(units[0], units[1]));
}
template <class S> ARU_FUNCTION void load_units(S, const stored_of<S>* p, Strip<scalar_of<S>> (&units)[S::units]) {
  using T = scalar_of<S>;
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) {
    vec<T> vectors[S::units];
    load_vectors(S{}, p + r * lanes<T>, vectors);
#pragma GCC unroll 2
    for (int u = 0; u < S::units; ++u) units[u].v[r] = vectors[u];
  }
}
template <class S> ARU_FUNCTION void store_units(S, stored_of<S>* p, const Strip<scalar_of<S>> (&units)[S::units]) {
  using T = scalar_of<S>;
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) {
    vec<T> vectors[S::units];
#pragma GCC unroll 2
    for (int u = 0; u < S::units; ++u) vectors[u] = units[u].v[r];
    store_vectors(S{}, p + r * lanes<T>, vectors);
  }
}

// acc + x w, for each kind of storage.
ARU_FUNCTION vfloat add_product(vfloat acc, vfloat x, float w) { return acc + x * w; }
ARU_FUNCTION vdouble add_product(vdouble acc, vdouble x, double w) { return acc + x * w; }
ARU_FUNCTION vfloat add_product(vfloat acc, vint32 x, int32_t w) { return dot_pairs(acc, x, vint32{} + w); }
ARU_FUNCTION vfloat add_product(vfloat acc, vfloat x, vfloat y) { return acc + x * y; }
ARU_FUNCTION vdouble add_product(vdouble acc, vdouble x, vdouble y) { return acc + x * y; }
ARU_FUNCTION vfloat add_product(vfloat acc, vint32 x, vint32 y) { return dot_pairs(acc, x, y); }

// Transposes a block of `count` rows and `columns` columns of (.., G) to vectors of state, and back.  The other lanes
// are zero.  full: both numbers are at least that of the lanes, so the block stays in registers.
template <class S, bool full>
void block_from_rows(const scalar_of<S>* rows, int64_t G, int64_t count, int64_t columns, stored_of<S>* out) {
  using T = scalar_of<S>;
  constexpr int L = lanes<T>;
  vec<T> block[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) {
    if constexpr (full)
      block[i] = load(rows + i * G);
    else
      block[i] = i < count ? load_first(rows + i * G, columns) : vec<T>{};
  }
  transpose<T>(block);
#pragma GCC unroll 16
  for (int j = 0; j < L; j += S::units) {
    if (!full && j >= columns) break;
    vec<T> units[S::units];
#pragma GCC unroll 2
    for (int u = 0; u < S::units; ++u) units[u] = block[j + u];
    store_vectors(S{}, out + j / S::units * strip<T>, units);
  }
}
template <class S, bool full>
void rows_from_block(const stored_of<S>* in, int64_t G, int64_t count, int64_t columns, scalar_of<S>* rows) {
  using T = scalar_of<S>;
  constexpr int L = lanes<T>;
  vec<T> block[L] = {};
#pragma GCC unroll 16
  for (int j = 0; j < L; j += S::units) {
    if (!full && j >= columns) break;
    vec<T> units[S::units];
    load_vectors(S{}, in + j / S::units * strip<T>, units);
#pragma GCC unroll 2
    for (int u = 0; u < S::units; ++u) block[j + u] = units[u];
  }
  transpose<T>(block);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) {
    if constexpr (full)
      store(rows + i * G, block[i]);
    else if (i < count)
      store_first(rows + i * G, block[i], columns);
  }
}

// Converts rows (count, G) to a strip of state, zero in the other lanes, and back.
template <class S> void strip_from_rows(const scalar_of<S>* rows, int64_t count, int64_t G, stored_of<S>* strip_out) {
  constexpr int L = lanes<scalar_of<S>>;
  for (int64_t r = 0; r < strip_vectors * L; r += L) {
    for (int64_t k = 0; k < G; k += L) {
      const auto convert = r + L <= count && k + L <= G ? block_from_rows<S, true> : block_from_rows<S, false>;
      convert(rows + r * G + k, G, count - r, G - k, strip_out + k / S::units * strip<scalar_of<S>> + r);
    }
  }
}
template <class S> void rows_from_strip(const stored_of<S>* strip_in, int64_t count, int64_t G, scalar_of<S>* rows) {
  constexpr int L = lanes<scalar_of<S>>;
  for (int64_t r = 0; r < strip_vectors * L && r < count; r += L) {
    for (int64_t k = 0; k < G; k += L) {
      const auto convert = r + L <= count && k + L <= G ? rows_from_block<S, true> : rows_from_block<S, false>;
      convert(strip_in + k / S::units * strip<scalar_of<S>> + r, G, count - r, G - k, rows + r * G + k);
    }
  }
}

}  // namespace ARU_ISA
}  // namespace aru
