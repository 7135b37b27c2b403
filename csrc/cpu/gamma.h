// gamma on a CPU, element by element, forward and backward, over strided and broadcast operands.
#pragma once

#include <cstdint>

namespace aru {

constexpr int max_dims = 8;

// The iteration space: x's shape, dimensions of size 1 dropped and contiguous ones merged; the last one runs fastest.
// Strides in elements; 0 where an operand is broadcast.
struct GammaShape {
  int dims;
  int64_t size[max_dims];
  int64_t x[max_dims], n[max_dims], s[max_dims], dy[max_dims];
};

// An operand whose gradient is summed over the dimensions in which it is broadcast.
struct GammaParameterGradient {
  void* out;      // contiguous, as many elements as the parameter
  int64_t numel;  // elements of the parameter
  // strides of the contiguous parameter over the iteration space; 0 where it is broadcast
  int64_t stride[max_dims];
};

// y: contiguous, in the order of the iteration space.
struct GammaForward {
  GammaShape shape;
  const void *x, *n, *s;
  void* y;
  double n_floor;
  int threads;
};

// dx: contiguous.  The sums for dn and ds are accumulated in double, in an order that the sizes alone decide.
struct GammaBackward {
  GammaShape shape;
  const void *dy, *x, *n, *s;
  void* dx;
  GammaParameterGradient dn, ds;
  double n_floor;
  int threads;
};

enum class Scalar {
  float32,
  float64,
  bfloat16_products,  // float32 with the controller\'s products in bfloat16; the sequences only
};

}  // namespace aru
