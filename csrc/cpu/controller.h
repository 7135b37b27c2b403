// The controller over strips of rows (strips.h).  Neurons lie along the SIMD lanes, so the G x G product is a
// register-blocked outer product with broadcast weights, and G needs no padding.
#pragma once

#include "strips.h"

namespace aru {
namespace ARU_ISA {

// Units that are computed side by side.  They take unit_block * strip_vectors accumulators, strip_vectors operands and,
// except for AVX-512, which reads it from memory, a broadcast: 27 of 32 registers, 23 of NEON's 32, or 15 of 16.
#ifndef ARU_UNIT_BLOCK  // an even number; smaller ones compile faster
#define ARU_UNIT_BLOCK (ARU_VECTOR_BYTES == 64 ? 26 : vector_registers == 32 ? 10 : 6)
#endif
constexpr int unit_block = ARU_UNIT_BLOCK;

// acc[j] += sum_k weight[k][j] x[k] over the stored entries k of a strip of G units; weight is packed as [k][J].
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

// g' of J units from the arguments of tanh, and their shares of n and s.  Even and odd units have separate sums: an
// addition to a single sum would wait for the previous one.
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

// Units j0 ... j0+J-1 of one step: g' = tanh(w_ag a + W_gg g + b_g); adds W_gc g' to n and s.  weight_gg, weight_ag and
// bias_g are multiplied by tanh_scale.
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

// The stored entry of its units' weights.
template <class T> T stored_weight(Whole<T>, const T (&w)[1]) { return w[0]; }
inline int32_t stored_weight(Paired, const float (&w)[2]) {
  return pair_bfloat16(splat<vfloat>(w[0]), splat<vfloat>(w[1]))[0];
}

// The controller's weights.  W_gg is packed for both directions in blocks of at most unit_block units; G is padded to
// whole stored entries.
template <class S> struct Controller {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  static_assert(sizeof(T) == sizeof(U), "packed into one block of memory");

  int64_t G, blocks;
  const T *weight_ag, *weight_n, *weight_s;  // [G]
  const T* bias_c;                           // [2]
  const T *scaled_ag, *scaled_bias_g;        // [G], multiplied by tanh_scale
  const U *scaled_gg, *gg_transposed;        // [block][k][units of the block]

  static int64_t elements(int64_t G) {
    const int64_t padded = padded_units<S>(G);
    return 2 * padded * padded / S::units + 5 * padded;
  }
  static int64_t blocks_of(int64_t padded) { return (padded + unit_block - 1) / unit_block; }
  // The first stored entry of a block.
  int64_t start(int64_t block) const { return G / S::units * block / blocks; }

  static Controller pack(int64_t G, const T* ag, const T* gg, const T* bias_g, const T* gc, const T* bias_c, T* out) {
    constexpr T scale = constants<T>::tanh_scale;
    const int64_t padded = padded_units<S>(G);
    T *own_ag = out, *own_n = out + padded, *own_s = out + 2 * padded;
    T *scaled_ag = out + 3 * padded, *scaled_bias = out + 4 * padded;
    U* to = reinterpret_cast<U*>(out + 5 * padded);
    U* transposed = to + padded * padded / S::units;
    const Controller c{padded, blocks_of(padded), own_ag, own_n, own_s, bias_c, scaled_ag, scaled_bias, to, transposed};
    for (int64_t j = 0; j < padded; ++j) {
      const bool real = j < G;
      own_ag[j] = real ? ag[j] : T(0);
      own_n[j] = real ? gc[j] : T(0);
      own_s[j] = real ? gc[G + j] : T(0);
      scaled_ag[j] = own_ag[j] * scale;
      scaled_bias[j] = real ? bias_g[j] * scale : T(0);
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
          *transposed++ = stored_weight(S{}, out_of);
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

}  // namespace ARU_ISA
}  // namespace aru
