// The controller over strips of rows: neurons along the SIMD lanes, so that the G x G product is a register-blocked
// outer product with broadcast weights and G needs no padding.
//
// A strip is strip_vectors vectors of consecutive rows r = (b, i) of a tile.  Its state is stored as [G][strip lanes],
// padded to an odd number of entries so that strips do not compete for the same cache sets.
#pragma once

#include "simd.h"

namespace aru {
namespace ARU_ISA {

// Registers: unit_block * strip_vectors accumulators, strip_vectors operands, a broadcast (AVX-512 reads that from
// memory): 27 of 32, or 15 of 16.
constexpr int strip_vectors = ARU_VECTOR_BYTES == 64 ? 1 : 2;
constexpr int unit_block = ARU_VECTOR_BYTES == 64 ? 26 : 6;

template <class T> constexpr int strip = strip_vectors * lanes<T>;

inline int64_t strip_elements(int64_t G, int64_t width) { return (G | 1) * width; }

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

// acc[j] += sum_k weight[k][j] x[k], k over the G entries of a strip; weight packed as [k][J].
template <class T, int J>
ARU_FUNCTION void accumulate_products(const T* weight, const T* x, int64_t G, vec<T> (&acc)[J][strip_vectors]) {
  for (int64_t k = 0; k < G; ++k) {
    const Strip<T> xk = load_strip(x + k * strip<T>);
    const T* w = weight + k * J;
#pragma GCC unroll 32
    for (int j = 0; j < J; ++j) {
#pragma GCC unroll 4
      for (int r = 0; r < strip_vectors; ++r) acc[j][r] += xk.v[r] * w[j];
    }
  }
}

// Units j0 ... j0+J-1 of one step: g' = tanh(w_ag a + W_gg g + b_g); n and s gather W_gc g'.
// The weights inside tanh come multiplied by tanh_scale.
template <class T, int J>
void controller_units_fwd(const T* weight_gg, const T* weight_ag, const T* bias_g, const T* weight_n,
                          const T* weight_s, int64_t G, const Strip<T>& a, const T* g, T* g_next, Strip<T>& n,
                          Strip<T>& s) {
  vec<T> acc[J][strip_vectors];
#pragma GCC unroll 32
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) acc[j][r] = a.v[r] * weight_ag[j] + bias_g[j];
  }
  accumulate_products<T, J>(weight_gg, g, G, acc);
#pragma GCC unroll 32
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) {
      const vec<T> next = tanh_of_scaled(acc[j][r]);
      store(g_next + (j * strip_vectors + r) * lanes<T>, next);
      n.v[r] += next * weight_n[j];
      s.v[r] += next * weight_s[j];
    }
  }
}

// Units j0 ... j0+J-1 of W_gg^T du.
template <class T, int J> void controller_units_bwd(const T* weight_gg, int64_t G, const T* du, T* dg) {
  vec<T> acc[J][strip_vectors] = {};
  accumulate_products<T, J>(weight_gg, du, G, acc);
#pragma GCC unroll 32
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) store(dg + (j * strip_vectors + r) * lanes<T>, acc[j][r]);
  }
}

template <class T> struct UnitKernels {
  void (*fwd)(const T*, const T*, const T*, const T*, const T*, int64_t, const Strip<T>&, const T*, T*, Strip<T>&,
              Strip<T>&);
  void (*bwd)(const T*, int64_t, const T*, T*);
};

// table[J - 1]: the kernels for J units at a time.
template <class T, int... J> struct UnitTable {
  static constexpr UnitKernels<T> table[sizeof...(J)] = {{controller_units_fwd<T, J>, controller_units_bwd<T, J>}...};
};
template <class T, int N, int... J> struct MakeUnitTable : MakeUnitTable<T, N - 1, N, J...> {};
template <class T, int... J> struct MakeUnitTable<T, 0, J...> : UnitTable<T, J...> {};

// The controller's weights, W_gg packed for both directions in blocks of at most unit_block units.
template <class T> struct Controller {
  int64_t G, blocks;
  const T *weight_ag, *weight_n, *weight_s, *bias_c;
  const T *scaled_ag, *scaled_bias_g;  // times tanh_scale
  const T *scaled_gg, *gg_transposed;  // [block][k][units of the block]

  static int64_t elements(int64_t G) { return 2 * G * G + 2 * G; }
  int64_t start(int64_t block) const { return G * block / blocks; }

  static Controller pack(int64_t G, const T* ag, const T* gg, const T* bias_g, const T* gc, const T* bias_c, T* out) {
    T *scaled_ag = out, *scaled_bias_g = out + G, *to = out + 2 * G, *to_transposed = to + G * G;
    const Controller c{G,         (G + unit_block - 1) / unit_block, ag, gc, gc + G, bias_c,
                       scaled_ag, scaled_bias_g,                     to, to_transposed};
    constexpr T scale = constants<T>::tanh_scale;
    for (int64_t j = 0; j < G; ++j) {
      scaled_ag[j] = ag[j] * scale;
      scaled_bias_g[j] = bias_g[j] * scale;
    }
    for (int64_t b = 0; b < c.blocks; ++b)
      for (int64_t k = 0; k < G; ++k)
        for (int64_t j = c.start(b); j < c.start(b + 1); ++j) {
          *to++ = gg[j * G + k] * scale;
          *to_transposed++ = gg[k * G + j];
        }
    return c;
  }

  // One step of one strip.
  void step(const Strip<T>& a, const T* g, T* g_next, Strip<T>& n, Strip<T>& s) const {
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) {
      n.v[r] = splat<vec<T>>(bias_c[0]);
      s.v[r] = splat<vec<T>>(bias_c[1]);
    }
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t j = start(b), units = start(b + 1) - j;
      MakeUnitTable<T, unit_block>::table[units - 1].fwd(scaled_gg + j * G, scaled_ag + j, scaled_bias_g + j,
                                                         weight_n + j, weight_s + j, G, a, g, g_next + j * strip<T>, n,
                                                         s);
    }
  }

  // dg = W_gg^T du
  void backward(const T* du, T* dg) const {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t j = start(b), units = start(b + 1) - j;
      MakeUnitTable<T, unit_block>::table[units - 1].bwd(gg_transposed + j * G, G, du, dg + j * strip<T>);
    }
  }
};

// One strip of state from rows (count, G), zero beyond, and back.
template <class T> void strip_from_rows(const T* rows, int64_t count, int64_t G, T* strip_out) {
  for (int64_t r = 0; r < strip<T>; ++r)
    for (int64_t j = 0; j < G; ++j) strip_out[j * strip<T> + r] = r < count ? rows[r * G + j] : T(0);
}
template <class T> void rows_from_strip(const T* strip_in, int64_t count, int64_t G, T* rows) {
  for (int64_t r = 0; r < (count < strip<T> ? count : strip<T>); ++r)
    for (int64_t j = 0; j < G; ++j) rows[r * G + j] = strip_in[j * strip<T> + r];
}

}  // namespace ARU_ISA
}  // namespace aru
