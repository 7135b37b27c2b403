// Products of a few rows with W_hh, such as h W_hh^T, and the micro-kernel of the weight gradient da^T h.
//
// A micro-kernel holds row_block x panel_vectors accumulators in registers.  The weights are packed into panels of
// panel_vectors vectors of columns with all k of a panel in sequence, so that a panel is read once, in order.
#pragma once

#include "simd.h"

namespace aru {
namespace ARU_ISA {

// The accumulators, a vector for each column of a panel and a broadcast fill the 32 (AVX-512) or 16 registers.  With
// NEON, gcc keeps the operands of several k in registers and spills with 4 vectors.
constexpr int row_block = 6;
constexpr int panel_vectors = ARU_VECTOR_BYTES == 64 ? 4 : vector_registers == 32 ? 3 : 2;

// A (size x size) matrix P, P[k][n] = transpose ? W[n][k] : W[k][n], n padded to whole vectors by zeros.
template <class T> struct Packed {
  int64_t size;
  const T* data;  // [panel][k][columns of the panel]

  static int64_t vectors(int64_t size) { return (size + lanes<T> - 1) / lanes<T>; }
  static int64_t panels(int64_t size) { return (vectors(size) + panel_vectors - 1) / panel_vectors; }
  static int64_t elements(int64_t size) { return size * vectors(size) * lanes<T>; }
  // The first vector of panel p; panels are as equal as possible.
  static int64_t start(int64_t size, int64_t p) { return vectors(size) * p / panels(size); }

  static Packed pack(const T* weight, int64_t size, bool transpose, T* out) {
    T* to = out;
    for (int64_t p = 0; p < panels(size); ++p) {
      const int64_t first = start(size, p) * lanes<T>, end = start(size, p + 1) * lanes<T>;
      for (int64_t k = 0; k < size; ++k)
        for (int64_t n = first; n < end; ++n)
          *to++ = n >= size ? T(0) : (transpose ? weight[n * size + k] : weight[k * size + n]);
    }
    return {size, out};
  }
};

// C[m][n] = (initial ? initial[m][n] : 0) + sum_k A[m][k] P[k][n] for M rows and V vectors of columns; the last
// vector has `last` elements.  A, C and initial have rows of length `stride`; if packed, A is stored as [k][M].
template <class T, int M, int V, bool packed = false>
void micro_kernel(const T* a, const T* panel, const T* initial, T* c, int64_t stride, int64_t depth, int64_t last) {
  vec<T> acc[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      acc[m][v] = initial ? load_first(initial + m * stride + v * lanes<T>, v + 1 < V ? lanes<T> : last) : vec<T>{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    vec<T> w[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) w[v] = load(panel + (k * V + v) * lanes<T>);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const T x = packed ? a[k * M + m] : a[m * stride + k];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[m][v] += w[v] * x;
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store_first(c + m * stride + v * lanes<T>, acc[m][v], v + 1 < V ? lanes<T> : last);
  }
}

template <class T> using MicroKernel = void (*)(const T*, const T*, const T*, T*, int64_t, int64_t, int64_t);

template <class T, int M> MicroKernel<T> micro_kernel_of(int64_t v) {
  static_assert(panel_vectors <= 4, "one case per panel width");
  switch (v) {
    case 1: return micro_kernel<T, M, 1>;
    case 2: return micro_kernel<T, M, 2>;
    case 3: return micro_kernel<T, M, (panel_vectors >= 3 ? 3 : 1)>;
    default: return micro_kernel<T, M, (panel_vectors >= 4 ? 4 : 1)>;
  }
}

template <class T> MicroKernel<T> micro_kernel_of(int64_t m, int64_t v) {
  switch (m) {
    case 1: return micro_kernel_of<T, 1>(v);
    case 2: return micro_kernel_of<T, 2>(v);
    case 3: return micro_kernel_of<T, 3>(v);
    case 4: return micro_kernel_of<T, 4>(v);
    case 5: return micro_kernel_of<T, 5>(v);
    default: return micro_kernel_of<T, 6>(v);
  }
}

// c (rows, size) = initial + a (rows, size) P; all of row stride `size`; initial may be null.  Only the columns of the
// panels [begin_panel, end_panel).
template <class T>
void multiply(const Packed<T>& p, const T* a, const T* initial, T* c, int64_t rows, int64_t begin_panel,
              int64_t end_panel) {
  const int64_t size = p.size, blocks = (rows + row_block - 1) / row_block;
  const T* panel = p.data + size * p.start(size, begin_panel) * lanes<T>;
  for (int64_t i = begin_panel; i < end_panel; ++i) {
    const int64_t first = p.start(size, i), width = p.start(size, i + 1) - first, column = first * lanes<T>;
    const int64_t left = size - column - (width - 1) * lanes<T>, last = left < lanes<T> ? left : lanes<T>;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t row = rows * b / blocks, end = rows * (b + 1) / blocks, offset = row * size;
      micro_kernel_of<T>(end - row, width)(a + offset, panel, initial ? initial + offset + column : nullptr,
                                           c + offset + column, size, size, last);
    }
    panel += size * width * lanes<T>;
  }
}

}  // namespace ARU_ISA
}  // namespace aru
