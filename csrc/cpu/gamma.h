// gamma on a CPU, element by element, forward and backward, over strided and broadcast operands.
#pragma once

#include <cstdint>

namespace aru {

constexpr int max_dims = 8;

// The iteration space: x's shape without dimensions of size 1, contiguous dimensions merged.  The last dimension runs
// fastest.  Strides are in elements, and 0 where an operand is broadcast.
struct GammaShape {
  int dims;
  int64_t size[max_dims];                                       // [dims]
  int64_t x[max_dims], n[max_dims], s[max_dims], dy[max_dims];  // strides of these operands, [dims]
};

// The gradient of n or s, summed over the dimensions in which the parameter is broadcast.
struct GammaParameterGradient {
  void* out;                 // [numel], contiguous
  int64_t numel;             // elements of the parameter
  int64_t stride[max_dims];  // [dims]: strides of `out` over the iteration space
};

struct GammaForward {
  GammaShape shape;
  const void *x, *n, *s;  // strided as `shape` says
  void* y;                // [size], contiguous
  double n_floor;
  int threads;
};

// The sums for dn and ds are accumulated in double, in an order that depends on the sizes only.
struct GammaBackward {
  GammaShape shape;
  const void *dy, *x, *n, *s;  // strided as `shape` says
  void* dx;                    // [size], contiguous
  GammaParameterGradient dn, ds;
  double n_floor;
  int threads;
};

enum class Scalar {
  float32,
  float64,
  bfloat16_products,  // float32 with the controller's products in bfloat16; for sequences only
};

}  // namespace aru
