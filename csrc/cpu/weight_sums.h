// Sums of a tile for the controller's weight gradients, kept in vectors and added to double totals now and then.
#pragma once

#include "controller.h"
#include "tiles.h"

namespace aru {
namespace ARU_ISA {

// Blocks of dW_gg whose accumulators fit the registers beside their operands.
constexpr int dot_units = ARU_VECTOR_BYTES == 64 ? 5 : 4;
constexpr int dot_inputs = ARU_VECTOR_BYTES == 64 ? 5 : 3;

// With AVX-512 gcc folds a load into each multiply-add that uses it, and the products are then bound by loads.  With
// AVX2 it does not, and holding an operand makes it spill accumulators (66 instead of 91 GFLOP/s on Zen 3).
#ifdef __AVX512F__
#define ARU_KEEP_IN_REGISTER(v) asm("" : "+v"(v))
#else
#define ARU_KEEP_IN_REGISTER(v) (void)(v)
#endif

// sums[j][k] += du_j g_k over strips; vectors, summed over their lanes later.
template <class T, int J, int K>
void dot_block(const T* du, const T* g, int64_t strips, int64_t size, vec<T>* sums) {
  vec<T> acc[J][K];
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) acc[j][k] = sums[j * K + k];
  }
  for (int64_t i = 0; i < strips; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) {
      const int64_t place = i * size + r * lanes<T>;
      vec<T> gk[K];
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        gk[k] = load(g + place + k * strip<T>);
        ARU_KEEP_IN_REGISTER(gk[k]);
      }
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) {
        vec<T> d = load(du + place + j * strip<T>);
        ARU_KEEP_IN_REGISTER(d);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) acc[j][k] += d * gk[k];
      }
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) sums[j * K + k] = acc[j][k];
  }
}

template <class T> using DotBlock = void (*)(const T*, const T*, int64_t, int64_t, vec<T>*);

template <class T, int J> DotBlock<T> dot_block_of(int64_t k) {
  switch (k) {
    case 1: return dot_block<T, J, 1>;
    case 2: return dot_block<T, J, 2>;
    case 3: return dot_block<T, J, 3>;
    case 4: return dot_block<T, J, dot_inputs >= 4 ? 4 : 1>;
    default: return dot_block<T, J, dot_inputs >= 5 ? 5 : 1>;
  }
}

template <class T> DotBlock<T> dot_block_of(int64_t j, int64_t k) {
  switch (j) {
    case 1: return dot_block_of<T, 1>(k);
    case 2: return dot_block_of<T, 2>(k);
    case 3: return dot_block_of<T, 3>(k);
    case 4: return dot_block_of<T, 4>(k);
    default: return dot_block_of<T, dot_units >= 5 ? 5 : 1>(k);
  }
}

// Totals, in this order: weight_gg (G, G), bias_g (G), weight_ag (G), weight_gc (2, G), bias_c (2).
template <class T> class WeightSums {
 public:
  static int64_t total_elements(int64_t G) { return G * G + 4 * G + 2; }

  void carve(int64_t G, Carver& carver) {
    G_ = G;
    products_ = carver.take<vec<T>>(G * G);
    units_ = carver.take<vec<T>>(4 * G);
    bias_c_ = carver.take<vec<T>>(2);
  }

  void clear() {
    for (int64_t i = 0; i < G_ * G_; ++i) products_[i] = vec<T>{};
    for (int64_t i = 0; i < 4 * G_; ++i) units_[i] = vec<T>{};
    bias_c_[0] = bias_c_[1] = vec<T>{};
  }

  // Sums over du, du a, dn g and ds g of unit j.
  vec<T>* of_unit(int64_t j) { return units_ + 4 * j; }
  vec<T>* bias_c() { return bias_c_; }

  // weight_gg += du g^T over strips.
  void add_products(const T* du, const T* g, int64_t strips) {
    const int64_t size = strip_elements(G_, strip<T>);
    for_blocks([&](int64_t j, int64_t units, int64_t k, int64_t inputs, vec<T>* sums) {
      dot_block_of<T>(units, inputs)(du + j * strip<T>, g + k * strip<T>, strips, size, sums);
    });
  }

  void flush(double* totals) {
    for_blocks([&](int64_t j, int64_t units, int64_t k, int64_t inputs, vec<T>* sums) {
      for (int64_t u = 0; u < units; ++u)
        for (int64_t v = 0; v < inputs; ++v) totals[(j + u) * G_ + k + v] += sum_lanes<T>(sums[u * inputs + v]);
    });
    double* of_units = totals + G_ * G_;
    for (int64_t j = 0; j < G_; ++j)
      for (int64_t kind = 0; kind < 4; ++kind) of_units[kind * G_ + j] += sum_lanes<T>(units_[4 * j + kind]);
    for (int i = 0; i < 2; ++i) of_units[4 * G_ + i] += sum_lanes<T>(bias_c_[i]);
    clear();
  }

 private:
  template <class F> void for_blocks(const F& f) {
    const int64_t rows = ceil_div(G_, dot_units), columns = ceil_div(G_, dot_inputs);
    vec<T>* sums = products_;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t j = G_ * row / rows, units = G_ * (row + 1) / rows - j;
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t k = G_ * column / columns, inputs = G_ * (column + 1) / columns - k;
        f(j, units, k, inputs, sums);
        sums += units * inputs;
      }
    }
  }

  int64_t G_ = 0;
  vec<T>*products_ = nullptr, *units_ = nullptr, *bias_c_ = nullptr;
};

}  // namespace ARU_ISA
}  // namespace aru
