// A tile's sums for the controller's weight gradients.  They are vectors, which are added to double totals regularly.
#pragma once

#include "strips.h"
#include "tiles.h"

namespace aru {
namespace ARU_ISA {

// The size of a block of dW_gg: its accumulators and operands fit the registers.
constexpr int dot_units = ARU_VECTOR_BYTES == 64 ? 5 : 4;
constexpr int dot_inputs = ARU_VECTOR_BYTES == 64 ? 5 : vector_registers == 32 ? 4 : 3;

// Keeps an operand in a register.  With AVX-512, gcc otherwise folds a load into each multiply-add that uses it, and
// loads limit the products.  With AVX2 it does not, and holding an operand would spill accumulators (66 instead of 91
// GFLOP/s on Zen 3).
#ifdef __AVX512F__
#define ARU_KEEP_IN_REGISTER(v) asm("" : "+v"(v))
#else
#define ARU_KEEP_IN_REGISTER(v) (void)(v)
#endif

// The operands of dW_gg's blocks: vectors over rows.  Pairs of units are converted to pairs of strips first.
template <class S> using operand_of = vec<stored_of<S>>;

// sums[j][k] += du_j g_k over strips (or pairs of strips) at a distance of `size`.  The sums are vectors, whose lanes
// are added up later.
template <class S, int J, int K>
void dot_block(const stored_of<S>* du, const stored_of<S>* g, int64_t strips, int64_t size, vec<scalar_of<S>>* sums) {
  constexpr int width = strip<scalar_of<S>>;
  vec<scalar_of<S>> acc[J][K];
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) acc[j][k] = sums[j * K + k];
  }
  for (int64_t i = 0; i < strips; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < strip_vectors; ++r) {
      const int64_t place = i * size + r * lanes<stored_of<S>>;
      operand_of<S> gk[K];
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        gk[k] = load(g + place + k * width);
        ARU_KEEP_IN_REGISTER(gk[k]);
      }
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) {
        operand_of<S> d = load(du + place + j * width);
        ARU_KEEP_IN_REGISTER(d);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) acc[j][k] = add_product(acc[j][k], d, gk[k]);
      }
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) sums[j * K + k] = acc[j][k];
  }
}

template <class S>
using DotBlock = void (*)(const stored_of<S>*, const stored_of<S>*, int64_t, int64_t, vec<scalar_of<S>>*);

template <class S, int J> DotBlock<S> dot_block_of(int64_t k) {
  switch (k) {
    case 1: return dot_block<S, J, 1>;
    case 2: return dot_block<S, J, 2>;
    case 3: return dot_block<S, J, 3>;
    case 4: return dot_block<S, J, (dot_inputs >= 4 ? 4 : 1)>;
    default: return dot_block<S, J, (dot_inputs >= 5 ? 5 : 1)>;
  }
}

template <class S> DotBlock<S> dot_block_of(int64_t j, int64_t k) {
  switch (j) {
    case 1: return dot_block_of<S, 1>(k);
    case 2: return dot_block_of<S, 2>(k);
    case 3: return dot_block_of<S, 3>(k);
    case 4: return dot_block_of<S, 4>(k);
    default: return dot_block_of<S, (dot_units >= 5 ? 5 : 1)>(k);
  }
}

// Converts pairs of units [strip][G/2] to pairs of strips [strip / 2][G]: a lane has the unit of an even strip and of
// the following one.
inline void pair_strips(const int32_t* from, int64_t strips, int64_t size, int64_t G, int32_t* to) {
  for (int64_t i = 0; i < strips; i += 2)
    for (int64_t k = 0; k < G / 2; ++k)
#pragma GCC unroll 4
      for (int r = 0; r < strip_vectors; ++r) {
        const int32_t* even = from + i * size + k * strip<float> + r * lanes<float>;
        const vint32 first = load(even), second = i + 1 < strips ? load(even + size) : vint32{};
        int32_t* out = to + (i / 2 * G + 2 * k) * strip<float> + r * lanes<float>;
        store(out, (first & 0xffff) | (second << 16));
        store(out + strip<float>, ((first >> 16) & 0xffff) | (second & int32_t(0xffff0000)));
      }
}

// The totals are, in this order, weight_gg (G, G), bias_g (G), weight_ag (G), weight_gc (2, G) and bias_c (2).
template <class S> class WeightSums {
 public:
  using T = scalar_of<S>;
  using U = stored_of<S>;

  static int64_t total_elements(int64_t G) { return G * G + 4 * G + 2; }

  // most_strips: the most strips that add_products() is called with.
  void carve(int64_t G, int64_t most_strips, Carver& carver) {
    real_G_ = G;
    G_ = padded_units<S>(G);
    products_ = carver.take<vec<T>>(G_ * G_);
    units_ = carver.take<vec<T>>(4 * G_);
    bias_c_ = carver.take<vec<T>>(2);
    const int64_t pairs = S::units == 1 ? 0 : ceil_div(most_strips, 2) * G_ * strip<T>;
    paired_du_ = carver.take<U>(pairs);
    paired_g_ = carver.take<U>(pairs);
  }

  void clear() {
    for (int64_t i = 0; i < G_ * G_; ++i) products_[i] = vec<T>{};
    for (int64_t i = 0; i < 4 * G_; ++i) units_[i] = vec<T>{};
    bias_c_[0] = bias_c_[1] = vec<T>{};
  }

  // The sums of du, du a, dn g and ds g of unit j.
  vec<T>* of_unit(int64_t j) { return units_ + 4 * j; }
  vec<T>* bias_c() { return bias_c_; }

  // weight_gg += du g^T over strips.
  void add_products(const U* du, const U* g, int64_t strips) {
    int64_t size = strip_elements<S>(G_);
    if constexpr (S::units == 2) {
      pair_strips(du, strips, size, G_, paired_du_);
      pair_strips(g, strips, size, G_, paired_g_);
      du = paired_du_, g = paired_g_, size = G_ * strip<T>, strips = ceil_div(strips, 2);
    }
    for_blocks([&](int64_t j, int64_t units, int64_t k, int64_t inputs, vec<T>* sums) {
      dot_block_of<S>(units, inputs)(du + j * strip<T>, g + k * strip<T>, strips, size, sums);
    });
  }

  void flush(double* totals) {
    for_blocks([&](int64_t j, int64_t units, int64_t k, int64_t inputs, vec<T>* sums) {
      for (int64_t u = 0; u < units && j + u < real_G_; ++u)
        for (int64_t v = 0; v < inputs && k + v < real_G_; ++v)
          totals[(j + u) * real_G_ + k + v] += sum_lanes<T>(sums[u * inputs + v]);
    });
    double* of_units = totals + real_G_ * real_G_;
    for (int64_t j = 0; j < real_G_; ++j)
      for (int64_t kind = 0; kind < 4; ++kind) of_units[kind * real_G_ + j] += sum_lanes<T>(units_[4 * j + kind]);
    for (int i = 0; i < 2; ++i) of_units[4 * real_G_ + i] += sum_lanes<T>(bias_c_[i]);
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

  int64_t real_G_ = 0, G_ = 0;                    // G_: padded to whole stored entries
  vec<T>* products_ = nullptr;                    // [block][unit][input]: sums of du g, (G, G) in all
  vec<T>* units_ = nullptr;                       // [G][4], of_unit()
  vec<T>* bias_c_ = nullptr;                      // [2]
  U *paired_du_ = nullptr, *paired_g_ = nullptr;  // [strip / 2][G][strip lanes], if units are paired
};

}  // namespace ARU_ISA
}  // namespace aru
