// The controller over strips of rows: neurons along the SIMD lanes, so that the G x G product is a register-blocked
// outer product with broadcast weights and G needs no padding.
//
// A strip is strip_vectors vectors of consecutive rows r = (b, i) of a tile.  Its state is stored as [G][strip lanes],
// padded to an odd number of entries so that strips do not compete for the same cache sets (or [G/2][...] of pairs).
#pragma once

#include "simd.h"

namespace aru {
namespace ARU_ISA {

// Registers: unit_block * strip_vectors accumulators, strip_vectors operands, a broadcast (AVX-512 reads that from
// memory): 27 of 32, or 15 of 16.
constexpr int strip_vectors = ARU_VECTOR_BYTES == 64 ? 1 : 2;
#ifndef ARU_UNIT_BLOCK  // an even number; smaller ones compile faster
#define ARU_UNIT_BLOCK (ARU_VECTOR_BYTES == 64 ? 26 : 6)
#endif
constexpr int unit_block = ARU_UNIT_BLOCK;

template <class T> constexpr int strip = strip_vectors * lanes<T>;

// How the state g, and du in the backward pass, are stored for the products with them: as they are, or as bfloat16 with
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

// G, or G + 1 where units come in pairs: a last unit of zero weights has the state 0 for ever.
template <class S> int64_t padded_units(int64_t G) { return (G + S::units - 1) / S::units * S::units; }

template <class S> int64_t strip_elements(int64_t G) {
  return (padded_units<S>(G) / S::units | 1) * strip<scalar_of<S>>;
}

template <class T> struct Strip {
  vec<T> v[strip_vectors];
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
// The first `count` rows; zero beyond.
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

// The units of one stored entry of a strip, and back.
template <class T> ARU_FUNCTION void load_units(Whole<T>, const T* p, Strip<T> (&units)[1]) {
  units[0] = load_strip(p);
}
template <class T> ARU_FUNCTION void store_units(Whole<T>, T* p, const Strip<T> (&units)[1]) {
  store_strip(p, units[0]);
}
ARU_FUNCTION void load_units(Paired, const int32_t* p, Strip<float> (&units)[2]) {
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) {
    const vint32 pair = load(p + r * lanes<float>);
    units[0].v[r] = low_of_pair(pair);
    units[1].v[r] = high_of_pair(pair);
  }
}
ARU_FUNCTION void store_units(Paired, int32_t* p, const Strip<float> (&units)[2]) {
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) store(p + r * lanes<float>, pair_bfloat16(units[0].v[r], units[1].v[r]));
}

ARU_FUNCTION vfloat add_product(vfloat acc, vfloat x, float w) { return acc + x * w; }
ARU_FUNCTION vdouble add_product(vdouble acc, vdouble x, double w) { return acc + x * w; }
ARU_FUNCTION vfloat add_product(vfloat acc, vint32 x, int32_t w) { return dot_pairs(acc, x, vint32{} + w); }
ARU_FUNCTION vfloat add_product(vfloat acc, vfloat x, vfloat y) { return acc + x * y; }
ARU_FUNCTION vdouble add_product(vdouble acc, vdouble x, vdouble y) { return acc + x * y; }
ARU_FUNCTION vfloat add_product(vfloat acc, vint32 x, vint32 y) { return dot_pairs(acc, x, y); }

// acc[j] += sum_k weight[k][j] x[k], k over the stored entries of a strip of G units; weight packed as [k][J].
template <class S, int J>
ARU_FUNCTION void accumulate_products(const stored_of<S>* weight, const stored_of<S>* x, int64_t G,
                                      vec<scalar_of<S>> (&acc)[J][strip_vectors]) {
  constexpr int width = strip<scalar_of<S>>;
  for (int64_t k = 0; k < G / S::units; ++k) {
    vec<stored_of<S>> xk[strip_vectors];
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) xk[r] = load(x + k * width + r * lanes<stored_of<S>>);
    const stored_of<S>* w = weight + k * J;
#pragma GCC unroll 32
    for (int j = 0; j < J; ++j) {
#pragma GCC unroll 4
      for (int r = 0; r < strip_vectors; ++r) acc[j][r] = add_product(acc[j][r], xk[r], w[j]);
    }
  }
}

// Units whose tanh is computed side by side; an even number.
template <class T> constexpr int tanh_group = strip_vectors == 1 ? 4 : 2;

// g' of J units from what tanh is applied to, and what they add to n and s: two sums each, for even and odd units, as
// one would wait for its own additions.
template <class S, int J>
ARU_FUNCTION void finish_units(const vec<scalar_of<S>> (*acc)[strip_vectors], const scalar_of<S>* weight_n,
                               const scalar_of<S>* weight_s, stored_of<S>* g_next, Strip<scalar_of<S>>& n,
                               Strip<scalar_of<S>>& s, Strip<scalar_of<S>>& odd_n, Strip<scalar_of<S>>& odd_s) {
  using T = scalar_of<S>;
  const auto next = tanh_of_scaled(
      Pack<vec<T>, J * strip_vectors>::of([&](int i) { return acc[i / strip_vectors][i % strip_vectors]; }));
#pragma GCC unroll 8
  for (int j = 0; j < J; j += S::units) {
    Strip<T> units[S::units];
#pragma GCC unroll 2
    for (int u = 0; u < S::units; ++u) {
      Strip<T>&to_n = (j + u) % 2 ? odd_n : n, &to_s = (j + u) % 2 ? odd_s : s;
#pragma GCC unroll 4
      for (int r = 0; r < strip_vectors; ++r) {
        units[u].v[r] = next.v[(j + u) * strip_vectors + r];
        to_n.v[r] += units[u].v[r] * weight_n[j + u];
        to_s.v[r] += units[u].v[r] * weight_s[j + u];
      }
    }
    store_units(S{}, g_next + j / S::units * strip<T>, units);
  }
}

// Units j0 ... j0+J-1 of one step: g' = tanh(w_ag a + W_gg g + b_g); n and s gather W_gc g'.
// The weights inside tanh come multiplied by tanh_scale.
template <class S, int J>
void controller_units_fwd(const stored_of<S>* weight_gg, const scalar_of<S>* weight_ag, const scalar_of<S>* bias_g,
                          const scalar_of<S>* weight_n, const scalar_of<S>* weight_s, int64_t G,
                          const Strip<scalar_of<S>>& a, const stored_of<S>* g, stored_of<S>* g_next,
                          Strip<scalar_of<S>>& n, Strip<scalar_of<S>>& s) {
  using T = scalar_of<S>;
  vec<T> acc[J][strip_vectors];
#pragma GCC unroll 32
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) acc[j][r] = a.v[r] * weight_ag[j] + bias_g[j];
  }
  accumulate_products<S, J>(weight_gg, g, G, acc);
  Strip<T> odd_n{}, odd_s{};
  constexpr int grouped = J / tanh_group<T> * tanh_group<T>;
#pragma GCC unroll 32
  for (int j = 0; j < grouped; j += tanh_group<T>)
    finish_units<S, tanh_group<T>>(&acc[j], weight_n + j, weight_s + j, g_next + j / S::units * strip<T>, n, s, odd_n,
                                   odd_s);
  if constexpr (grouped < J)
    finish_units<S, J - grouped>(&acc[grouped], weight_n + grouped, weight_s + grouped,
                                 g_next + grouped / S::units * strip<T>, n, s, odd_n, odd_s);
#pragma GCC unroll 4
  for (int r = 0; r < strip_vectors; ++r) {
    n.v[r] += odd_n.v[r];
    s.v[r] += odd_s.v[r];
  }
}

// Units j0 ... j0+J-1 of W_gg^T du.
template <class S, int J>
void controller_units_bwd(const stored_of<S>* weight_gg, int64_t G, const stored_of<S>* du, scalar_of<S>* dg) {
  using T = scalar_of<S>;
  vec<T> acc[J][strip_vectors] = {};
  accumulate_products<S, J>(weight_gg, du, G, acc);
#pragma GCC unroll 32
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) store(dg + (j * strip_vectors + r) * lanes<T>, acc[j][r]);
  }
}

template <class S> struct UnitKernels {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  void (*fwd)(const U*, const T*, const T*, const T*, const T*, int64_t, const Strip<T>&, const U*, U*, Strip<T>&,
              Strip<T>&);
  void (*bwd)(const U*, int64_t, const U*, T*);
};

// table[k - 1]: the kernels for k stored entries of units at a time.
template <class S, int... K> struct UnitTable {
  static constexpr UnitKernels<S> table[sizeof...(K)] = {
      {controller_units_fwd<S, K * S::units>, controller_units_bwd<S, K * S::units>}...};
};
template <class S, int N, int... K> struct MakeUnitTable : MakeUnitTable<S, N - 1, N, K...> {};
template <class S, int... K> struct MakeUnitTable<S, 0, K...> : UnitTable<S, K...> {};

// A stored entry from the weights of its units.
template <class T> T stored_weight(Whole<T>, const T (&w)[1]) { return w[0]; }
inline int32_t stored_weight(Paired, const float (&w)[2]) {
  return pair_bfloat16(splat<vfloat>(w[0]), splat<vfloat>(w[1]))[0];
}

// The controller's weights, W_gg packed for both directions in blocks of at most unit_block units; G in whole entries.
template <class S> struct Controller {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  static_assert(sizeof(T) == sizeof(U), "packed into one block of memory");

  int64_t G, blocks;
  const T *weight_ag, *weight_n, *weight_s, *bias_c;
  const T *scaled_ag, *scaled_bias_g;  // times tanh_scale
  const U *scaled_gg, *gg_transposed;  // [block][k][units of the block]

  static int64_t elements(int64_t G) {
    const int64_t padded = padded_units<S>(G);
    return 2 * padded * padded / S::units + 5 * padded;
  }
  // In stored entries.
  int64_t start(int64_t block) const { return G / S::units * block / blocks; }

  static Controller pack(int64_t G, const T* ag, const T* gg, const T* bias_g, const T* gc, const T* bias_c, T* out) {
    constexpr T scale = constants<T>::tanh_scale;
    const int64_t padded = padded_units<S>(G);
    T *own_ag = out, *own_n = out + padded, *own_s = out + 2 * padded;
    T *scaled_ag = out + 3 * padded, *scaled_bias_g = out + 4 * padded;
    U* to = reinterpret_cast<U*>(out + 5 * padded);
    U* to_transposed = to + padded * padded / S::units;
    const int64_t blocks = (padded + unit_block - 1) / unit_block;
    const Controller c{padded, blocks, own_ag, own_n, own_s, bias_c, scaled_ag, scaled_bias_g, to, to_transposed};
    for (int64_t j = 0; j < padded; ++j) {
      const bool real = j < G;
      own_ag[j] = real ? ag[j] : T(0);
      own_n[j] = real ? gc[j] : T(0);
      own_s[j] = real ? gc[G + j] : T(0);
      scaled_ag[j] = own_ag[j] * scale;
      scaled_bias_g[j] = real ? bias_g[j] * scale : T(0);
    }
    const auto weight = [&](int64_t j, int64_t k) { return j < G && k < G ? gg[j * G + k] : T(0); };
    for (int64_t b = 0; b < c.blocks; ++b)
      for (int64_t k = 0; k < padded; k += S::units)
        for (int64_t j = c.start(b) * S::units; j < c.start(b + 1) * S::units; ++j) {
          T in[S::units], out_of[S::units];
          for (int u = 0; u < S::units; ++u) {
            in[u] = weight(j, k + u) * scale;
            out_of[u] = weight(k + u, j);
          }
          *to++ = stored_weight(S{}, in);
          *to_transposed++ = stored_weight(S{}, out_of);
        }
    return c;
  }

  // One step of one strip.
  void step(const Strip<T>& a, const U* g, U* g_next, Strip<T>& n, Strip<T>& s) const {
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) {
      n.v[r] = splat<vec<T>>(bias_c[0]);
      s.v[r] = splat<vec<T>>(bias_c[1]);
    }
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t k = start(b), entries = start(b + 1) - k, j = k * S::units;
      kernels(entries).fwd(scaled_gg + k * G, scaled_ag + j, scaled_bias_g + j, weight_n + j, weight_s + j, G, a, g,
                           g_next + k * strip<T>, n, s);
    }
  }

  // dg = W_gg^T du
  void backward(const U* du, T* dg) const {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t k = start(b), entries = start(b + 1) - k;
      kernels(entries).bwd(gg_transposed + k * G, G, du, dg + k * S::units * strip<T>);
    }
  }

 private:
  static const UnitKernels<S>& kernels(int64_t entries) {
    return MakeUnitTable<S, unit_block / S::units>::table[entries - 1];
  }
};

// One strip of state from rows (count, G), zero beyond, and back.
template <class S> void strip_from_rows(const scalar_of<S>* rows, int64_t count, int64_t G, stored_of<S>* strip_out) {
  using T = scalar_of<S>;
  for (int64_t k = 0; k < padded_units<S>(G); k += S::units) {
    T column[S::units][strip<T>] = {};
    for (int u = 0; u < S::units && k + u < G; ++u)
      for (int64_t r = 0; r < strip<T> && r < count; ++r) column[u][r] = rows[r * G + k + u];
    Strip<T> units[S::units];
    for (int u = 0; u < S::units; ++u) units[u] = load_strip(column[u]);
    store_units(S{}, strip_out + k / S::units * strip<T>, units);
  }
}
template <class S> void rows_from_strip(const stored_of<S>* strip_in, int64_t count, int64_t G, scalar_of<S>* rows) {
  using T = scalar_of<S>;
  for (int64_t k = 0; k < padded_units<S>(G); k += S::units) {
    Strip<T> units[S::units];
    load_units(S{}, strip_in + k / S::units * strip<T>, units);
    for (int u = 0; u < S::units && k + u < G; ++u) {
      T column[strip<T>];
      store_strip(column, units[u]);
      for (int64_t r = 0; r < strip<T> && r < count; ++r) rows[r * G + k + u] = column[r];
    }
  }
}

}  // namespace ARU_ISA
}  // namespace aru
