// gamma, its derivatives and tanh: the only C++ copy of the paper's element-wise mathematics.
//
// Everything is a template over V, which is float, double or a SIMD vector of them.  A translation unit sets ARU_ISA
// (a namespace) before it includes this header, so that code built for one instruction set is never linked into
// another's.  CUDA code takes V = float.  |error| of the elementary functions, measured in tests/test_elementary.py:
// exp_negative 2 ulp, log1p_unit 3 ulp, tanh 2.4e-7 absolute (float) and 3 ulp (double).
#pragma once

#include <cstdint>

#ifndef ARU_ISA
#error "define ARU_ISA, the namespace of the instruction set, before including aru_math.h"
#endif
#ifdef __CUDACC__
#define ARU_MEMBER __host__ __device__ __forceinline__
#define ARU_UNROLL_ALL _Pragma("unroll")
#else
#define ARU_MEMBER inline __attribute__((always_inline))
#define ARU_UNROLL_ALL _Pragma("GCC unroll 20")
#endif
#define ARU_FUNCTION static ARU_MEMBER

namespace aru {
namespace ARU_ISA {

// element_of<V>: the scalar inside V; bits_of<V>: an integer of the same layout.  simd.h adds the vectors.
template <class V> struct element;
template <> struct element<float> {
  using type = float;
  using bits = int32_t;
};
template <> struct element<double> {
  using type = double;
  using bits = int64_t;
};
template <class V> using element_of = typename element<V>::type;
template <class V> using bits_of = typename element<V>::bits;

template <class To, class From> ARU_FUNCTION To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast between types of different size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// min(a, b) and max(a, b) of a number a: NaN where b is NaN.  simd.h has the vectors' instructions.
template <class V> struct extremes {
  static ARU_MEMBER V min(V a, V b) { return a < b ? a : b; }
  static ARU_MEMBER V max(V a, V b) { return a > b ? a : b; }
};

// Constants per scalar type.  Polynomials are functions of the index, which device code can call.
template <class T> struct constants;

template <> struct constants<float> {
  static constexpr int mantissa_bits = 23;
  static constexpr int32_t sign_bit = INT32_MIN;
  static constexpr float log2_e = 1.442695040888963407f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float exp_floor = -87.0f;        // exp(-87) is the last normal number but one
  static constexpr float round_magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  // (exp(r) - 1 - r) / r^2 on |r| <= ln2/2, Cephes' expf.
  static constexpr int exp_terms = 6;
  static constexpr ARU_MEMBER float exp_poly(int i) {
    constexpr float c[exp_terms] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                    4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    return c[i];
  }
  static constexpr int atanh_terms = 7;
  static constexpr float tanh_scale = 2.885390081777927f;  // 2 log2(e)
  static constexpr float tanh_limit = 30.f;                // beyond it tanh rounds to 1
  // (2^f - 1) / f on |f| <= 1/2, minimax in the relative error of 2^f (1.1e-7).
  static constexpr int exp2_terms = 5;
  static constexpr ARU_MEMBER float exp2_poly(int i) {
    constexpr float c[exp2_terms] = {1.326463651e-03f, 9.671482258e-03f, 5.550733581e-02f, 2.402224243e-01f,
                                     6.931470037e-01f};
    return c[i];
  }
};

template <> struct constants<double> {
  static constexpr int mantissa_bits = 52;
  static constexpr int64_t sign_bit = INT64_MIN;
  static constexpr double log2_e = 1.442695040888963407359924681;
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr double exp_floor = -708.0;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  // Taylor: the first term left out is below 2^-56 of the sum.
  static constexpr int exp_terms = 12;
  static constexpr ARU_MEMBER double exp_poly(int i) {
    constexpr double c[exp_terms] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800,
                                     1. / 362880,     1. / 40320,     1. / 5040,     1. / 720,
                                     1. / 120,        1. / 24,        1. / 6,        1. / 2};
    return c[i];
  }
  static constexpr int atanh_terms = 17;
  static constexpr double tanh_scale = 1;
};

// Not for -0, which becomes +0.
template <class V> ARU_FUNCTION V splat(element_of<V> x) { return V{} + x; }

// -|x|
template <class V> ARU_FUNCTION V negative_magnitude(V x) {
  return bit_cast<V>(bit_cast<bits_of<V>>(x) | constants<element_of<V>>::sign_bit);
}

// |x|
template <class V> ARU_FUNCTION V magnitude(V x) {
  return bit_cast<V>(bit_cast<bits_of<V>>(x) & ~constants<element_of<V>>::sign_bit);
}

// a where x < bound, else b; b where x is NaN.
template <class V> ARU_FUNCTION V where_less(V x, element_of<V> bound, V a, V b) { return x < bound ? a : b; }

// v to the nearest integer k, and 2^k for |k| below the largest exponent; simd.h has the instructions of AVX-512.
template <class V> struct Power {
  static constexpr bool any_negative = false;  // whether k may also be far below the smallest exponent
  V shifted, k;
  Power() = default;
  explicit ARU_MEMBER Power(V v)
      : shifted(v + constants<element_of<V>>::round_magic), k(shifted - constants<element_of<V>>::round_magic) {}
  // v = k + rest
  static ARU_MEMBER Power split(V v, V& rest) {
    const Power power(v);
    rest = v - power.k;
    return power;
  }
  // x 2^k
  ARU_MEMBER V times(V x) const {
    using C = constants<element_of<V>>;
    const bits_of<V> one = bit_cast<bits_of<V>>(splat<V>(element_of<V>(1)));
    return x * bit_cast<V>((bit_cast<bits_of<V>>(shifted) << C::mantissa_bits) + one);
  }
};

// a / x for 1 <= x <= 2^64; simd.h has the estimate of AVX-512.
template <class V> struct Quotient {
  static ARU_MEMBER V of(element_of<V> a, V x) { return a / x; }
};

// exp(y) = 2^k (1 + rest) for y <= 0, by y = k ln2 + r.  A NaN stays a NaN; below exp_floor y counts as exp_floor.
template <class V> ARU_FUNCTION Power<V> split_exp(V y, V& rest) {
  using C = constants<element_of<V>>;
  y = extremes<V>::max(splat<V>(C::exp_floor), y);
  const Power<V> power(y * C::log2_e);
  const V r = (y - power.k * C::ln2_high) - power.k * C::ln2_low;
  V p = splat<V>(C::exp_poly(0));
  ARU_UNROLL_ALL
  for (int i = 1; i < C::exp_terms; ++i) p = p * r + C::exp_poly(i);
  rest = p * (r * r) + r;
  return power;
}

// exp(y) for y <= 0; 0 below exp_floor.
template <class V> ARU_FUNCTION V exp_negative(V y) {
  V rest;
  const Power<V> power = split_exp(y, rest);
  return where_less(y, constants<element_of<V>>::exp_floor, V{}, power.times(rest + element_of<V>(1)));
}

// log1p(e) for 0 <= e <= 1, as 2 atanh(e / (2 + e)).
template <class V> ARU_FUNCTION V log1p_unit(V e) {
  using T = element_of<V>;
  const V t = e / (e + T(2)), t2 = t * t;
  V p = splat<V>(T(1) / T(2 * constants<T>::atanh_terms - 1));
  ARU_UNROLL_ALL
  for (int i = constants<T>::atanh_terms - 2; i >= 0; --i) p = p * t2 + T(1) / T(2 * i + 1);
  return (t + t) * p;
}

// tanh(x) from v = tanh_scale x, so that a caller can scale its weights once instead of every argument.
//
// Float: 1 - 2 / (1 + 2^v), v = 2 log2(e) x.  The absolute error is that of a few roundings of 1, and where tanh(x)
// rounds to 1 the result is 1: 1 - g^2 of a saturated unit is 0, as it must be where its gradient is large.
template <class V> ARU_FUNCTION V tanh_of_scaled(V v, float) {
  using C = constants<float>;
  v = extremes<V>::min(splat<V>(C::tanh_limit), v);
  if constexpr (!Power<V>::any_negative) v = extremes<V>::max(splat<V>(-C::tanh_limit), v);
  V f;
  const Power<V> power = Power<V>::split(v, f);
  V p = f * C::exp2_poly(0) + C::exp2_poly(1);
  ARU_UNROLL_ALL
  for (int i = 2; i < C::exp2_terms; ++i) p = p * f + C::exp2_poly(i);
  return 1.f - Quotient<V>::of(2.f, power.times(p * f + 1.f) + 1.f);
}

// Double: v = x.  expm1(-2|x|) keeps the accuracy near 0.
template <class V> ARU_FUNCTION V tanh_of_scaled(V v, double) {
  V rest;
  const Power<V> power = split_exp(negative_magnitude(v + v), rest);
  const V scale = power.times(splat<V>(1.0)), expm1 = scale * rest + (scale - 1.0);
  const V magnitude = -expm1 / (expm1 + 2.0);
  return v < 0.0 ? -magnitude : magnitude;
}

template <class V> ARU_FUNCTION V tanh_of_scaled(V v) { return tanh_of_scaled(v, element_of<V>()); }
template <class V> ARU_FUNCTION V tanh(V x) { return tanh_of_scaled(x * constants<element_of<V>>::tanh_scale); }

// Shared by the value and the derivatives: with z = n x and e = exp(-|z|),
// sigma(z), log1p(e) and x where z >= 0 (softplus(z)/n = positive_part + log1p(e)/n, which cannot overflow).
template <class V> struct GammaParts {
  V n, minus_abs_z, e, reciprocal, sigma, log1p_e, positive_part;
};

// The functions that gamma is made of, accurate to a few roundings; CUDA code has faster ones.
template <class V> struct Accurate {
  static ARU_MEMBER V exp_of_negative(V y) { return exp_negative(y); }
  static ARU_MEMBER V log1p_of_unit(V e) { return log1p_unit(e); }
  static ARU_MEMBER V reciprocal(V x) { return element_of<V>(1) / x; }
  static ARU_MEMBER V quotient(V x, V y) { return x / y; }
};

template <class V, class F> ARU_FUNCTION GammaParts<V> gamma_parts(V x, V n, element_of<V> n_floor) {
  using T = element_of<V>;
  GammaParts<V> parts;
  const V signed_floor = where_less(n, T(0), splat<V>(-n_floor), splat<V>(n_floor));
  parts.n = where_less(magnitude(n), n_floor, signed_floor, n);
  const V z = parts.n * x;
  parts.minus_abs_z = negative_magnitude(z);
  parts.e = F::exp_of_negative(parts.minus_abs_z);
  parts.reciprocal = F::reciprocal(parts.e + T(1));
  parts.sigma = where_less(z, T(0), parts.e * parts.reciprocal, parts.reciprocal);
  parts.log1p_e = F::log1p_of_unit(parts.e);
  parts.positive_part = where_less(z, T(0), V{}, x);
  return parts;
}

template <class V, class F = Accurate<V>> ARU_FUNCTION V gamma_value(V x, V n, V s, element_of<V> n_floor) {
  using T = element_of<V>;
  const GammaParts<V> parts = gamma_parts<V, F>(x, n, n_floor);
  const V softplus_over_n = F::quotient(parts.log1p_e, parts.n) + parts.positive_part;
  return (T(1) - s) * softplus_over_n + s * parts.sigma;
}

// spec: d/dx = (1-s) sigma + s n v,  d/dn = -(1-s) E/n^2 + s x v,  d/ds = sigma - softplus/n,
// v = sigma (1 - sigma) and E = log1p(e) + |z| e / (1 + e), the entropy of sigma.
template <class V> struct GammaDerivatives {
  V value, dx, dn, ds;
};

template <class V, class F = Accurate<V>>
ARU_FUNCTION GammaDerivatives<V> gamma_derivatives(V x, V n, V s, element_of<V> n_floor) {
  using T = element_of<V>;
  const GammaParts<V> parts = gamma_parts<V, F>(x, n, n_floor);
  const V tail = parts.e * parts.reciprocal;  // sigma(-|z|)
  const V v = tail * parts.reciprocal;
  // |z| may have overflowed; where e is 0, infinity * 0 would be NaN.
  const V limit = splat<V>(constants<T>::exp_floor);
  const V entropy = parts.log1p_e - extremes<V>::max(limit, parts.minus_abs_z) * tail;
  const V inverse_n = F::reciprocal(parts.n);
  GammaDerivatives<V> d;
  d.dx = (T(1) - s) * parts.sigma + s * (parts.n * v);
  d.dn = s * (x * v) - (T(1) - s) * ((entropy * inverse_n) * inverse_n);
  const V softplus_over_n = parts.log1p_e * inverse_n + parts.positive_part;
  d.ds = parts.sigma - softplus_over_n;
  d.value = (T(1) - s) * softplus_over_n + s * parts.sigma;
  return d;
}

}  // namespace ARU_ISA
}  // namespace aru
