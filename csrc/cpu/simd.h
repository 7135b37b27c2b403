// SIMD vectors by the compiler's vector extension (GCC, Clang): one source for every instruction set.
//
// ARU_VECTOR_BYTES is the width of a register: 64 (AVX-512), 32 (AVX2), 16 (SSE2, NEON).
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#ifdef __aarch64__
#include <arm_neon.h>
#endif

#include "../aru_math.h"

namespace aru {
namespace ARU_ISA {

// Vector registers, which bound the blocks of the products.
#if ARU_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int vector_registers = 32;
#else
constexpr int vector_registers = 16;
#endif

typedef float vfloat __attribute__((vector_size(ARU_VECTOR_BYTES)));
typedef double vdouble __attribute__((vector_size(ARU_VECTOR_BYTES)));
typedef int32_t vint32 __attribute__((vector_size(ARU_VECTOR_BYTES)));
typedef int64_t vint64 __attribute__((vector_size(ARU_VECTOR_BYTES)));

template <> struct element<vfloat> {
  using type = float;
  using bits = vint32;
};
template <> struct element<vdouble> {
  using type = double;
  using bits = vint64;
};

#if defined(__x86_64__) && (ARU_VECTOR_BYTES < 64 || defined(__AVX512F__))
// The compiler would make two instructions of a comparison and a selection.
#if ARU_VECTOR_BYTES == 64
#define ARU_EXTREME(name, type) _mm512_##name##_##type
#elif ARU_VECTOR_BYTES == 32
#define ARU_EXTREME(name, type) _mm256_##name##_##type
#else
#define ARU_EXTREME(name, type) _mm_##name##_##type
#endif
template <> struct extremes<vfloat> {
  static ARU_MEMBER vfloat min(vfloat a, vfloat b) { return (vfloat)ARU_EXTREME(min, ps)(a, b); }
  static ARU_MEMBER vfloat max(vfloat a, vfloat b) { return (vfloat)ARU_EXTREME(max, ps)(a, b); }
};
template <> struct extremes<vdouble> {
  static ARU_MEMBER vdouble min(vdouble a, vdouble b) { return (vdouble)ARU_EXTREME(min, pd)(a, b); }
  static ARU_MEMBER vdouble max(vdouble a, vdouble b) { return (vdouble)ARU_EXTREME(max, pd)(a, b); }
};
#undef ARU_EXTREME
#elif defined(__aarch64__) && ARU_VECTOR_BYTES == 16
// FMIN and FMAX are NaN where either argument is: the same as elsewhere, because a is a number.
template <> struct extremes<vfloat> {
  static ARU_MEMBER vfloat min(vfloat a, vfloat b) { return (vfloat)vminq_f32((float32x4_t)a, (float32x4_t)b); }
  static ARU_MEMBER vfloat max(vfloat a, vfloat b) { return (vfloat)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
};
template <> struct extremes<vdouble> {
  static ARU_MEMBER vdouble min(vdouble a, vdouble b) { return (vdouble)vminq_f64((float64x2_t)a, (float64x2_t)b); }
  static ARU_MEMBER vdouble max(vdouble a, vdouble b) { return (vdouble)vmaxq_f64((float64x2_t)a, (float64x2_t)b); }
};
#endif

#if defined(__AVX512F__) && ARU_VECTOR_BYTES == 64
template <> struct Power<vfloat> {
  static constexpr bool any_negative = true;
  vfloat k;
  Power() = default;
  explicit ARU_MEMBER Power(vfloat v)
      : k((vfloat)_mm512_roundscale_ps((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)) {}
  static ARU_MEMBER Power split(vfloat v, vfloat& rest) {
    rest = (vfloat)_mm512_reduce_ps((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    Power power;
    power.k = v - rest;
    return power;
  }
  ARU_MEMBER vfloat times(vfloat x) const { return (vfloat)_mm512_scalef_ps((__m512)x, (__m512)k); }
};
template <> struct Power<vdouble> {
  vdouble k;
  Power() = default;
  explicit ARU_MEMBER Power(vdouble v)
      : k((vdouble)_mm512_roundscale_pd((__m512d)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)) {}
  ARU_MEMBER vdouble times(vdouble x) const { return (vdouble)_mm512_scalef_pd((__m512d)x, (__m512d)k); }
};
// An estimate of 14 bits and a Newton step, to a rounding or two: Intel's division takes as long as ten products.
template <> struct Quotient<vfloat> {
  static ARU_MEMBER vfloat of(float a, vfloat x) {
    const vfloat estimate = (vfloat)_mm512_rcp14_ps((__m512)x);
    return a * (estimate * (1.f - x * estimate) + estimate);
  }
};
#endif

template <class T> struct vector_of;
template <> struct vector_of<float> {
  using type = vfloat;
};
template <> struct vector_of<double> {
  using type = vdouble;
};
template <> struct vector_of<int32_t> {
  using type = vint32;
};
template <class T> using vec = typename vector_of<T>::type;
template <class T> constexpr int lanes = ARU_VECTOR_BYTES / int(sizeof(T));

// N vectors that take each step of the element-wise mathematics together.  A single vector is a chain of dependent
// instructions that is longer than a processor looks ahead.
template <class V, int N> struct Pack {
  V v[N];

  template <class F> static ARU_MEMBER Pack of(const F& f) {
    Pack p;
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) p.v[i] = f(i);
    return p;
  }
};
#define ARU_PACK_OPERATOR(op)                                                                               \
  template <class V, int N> ARU_FUNCTION Pack<V, N> operator op(const Pack<V, N>& a, const Pack<V, N>& b) { \
    return Pack<V, N>::of([&](int i) { return a.v[i] op b.v[i]; });                                         \
  }                                                                                                         \
  template <class V, int N> ARU_FUNCTION Pack<V, N> operator op(const Pack<V, N>& a, element_of<V> b) {     \
    return Pack<V, N>::of([&](int i) { return a.v[i] op b; });                                              \
  }                                                                                                         \
  template <class V, int N> ARU_FUNCTION Pack<V, N> operator op(element_of<V> a, const Pack<V, N>& b) {     \
    return Pack<V, N>::of([&](int i) { return a op b.v[i]; });                                              \
  }
ARU_PACK_OPERATOR(+)
ARU_PACK_OPERATOR(-)
ARU_PACK_OPERATOR(*)
ARU_PACK_OPERATOR(/)
#undef ARU_PACK_OPERATOR

template <class V, int N> struct element<Pack<V, N>> {
  using type = element_of<V>;
};
template <class V, int N> struct extremes<Pack<V, N>> {
  using P = Pack<V, N>;
  static ARU_MEMBER P min(const P& a, const P& b) {
    return P::of([&](int i) { return extremes<V>::min(a.v[i], b.v[i]); });
  }
  static ARU_MEMBER P max(const P& a, const P& b) {
    return P::of([&](int i) { return extremes<V>::max(a.v[i], b.v[i]); });
  }
};
template <class V, int N> struct Power<Pack<V, N>> {
  using P = Pack<V, N>;
  static constexpr bool any_negative = Power<V>::any_negative;
  Pack<Power<V>, N> each;
  P k;
  Power() = default;
  explicit ARU_MEMBER Power(const P& v)
      : each(Pack<Power<V>, N>::of([&](int i) { return Power<V>(v.v[i]); })),
        k(P::of([&](int i) { return each.v[i].k; })) {}
  static ARU_MEMBER Power split(const P& v, P& rest) {
    Power power;
    power.each = Pack<Power<V>, N>::of([&](int i) { return Power<V>::split(v.v[i], rest.v[i]); });
    power.k = P::of([&](int i) { return power.each.v[i].k; });
    return power;
  }
  ARU_MEMBER P times(const P& x) const {
    return P::of([&](int i) { return each.v[i].times(x.v[i]); });
  }
};

template <class V, int N> struct Quotient<Pack<V, N>> {
  using P = Pack<V, N>;
  static ARU_MEMBER P of(element_of<V> a, const P& x) {
    return P::of([&](int i) { return Quotient<V>::of(a, x.v[i]); });
  }
};

template <class V, int N> ARU_FUNCTION Pack<V, N> negative_magnitude(const Pack<V, N>& x) {
  return Pack<V, N>::of([&](int i) { return negative_magnitude(x.v[i]); });
}
template <class V, int N> ARU_FUNCTION Pack<V, N> magnitude(const Pack<V, N>& x) {
  return Pack<V, N>::of([&](int i) { return magnitude(x.v[i]); });
}
template <class V, int N>
ARU_FUNCTION Pack<V, N> where_less(const Pack<V, N>& x, element_of<V> bound, const Pack<V, N>& a, const Pack<V, N>& b) {
  return Pack<V, N>::of([&](int i) { return where_less(x.v[i], bound, a.v[i], b.v[i]); });
}

// Double: one vector after the other, because its formula selects lane by lane.
template <int N> ARU_FUNCTION Pack<vdouble, N> tanh_of_scaled(const Pack<vdouble, N>& v, double) {
  return Pack<vdouble, N>::of([&](int i) { return tanh_of_scaled(v.v[i]); });
}

// Loads and stores at any alignment; memcpy compiles to one move.
template <class T> ARU_FUNCTION vec<T> load(const T* p) {
  vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
template <class T> ARU_FUNCTION void store(T* p, vec<T> v) { __builtin_memcpy(p, &v, sizeof(v)); }

// The number of vectors of gamma that are computed side by side.
constexpr int side_by_side = 4;
template <class T, int N> ARU_FUNCTION Pack<vec<T>, N> load_pack(const T* p) {
  return Pack<vec<T>, N>::of([&](int i) { return load(p + i * lanes<T>); });
}
template <class T, int N> ARU_FUNCTION void store_pack(T* p, const Pack<vec<T>, N>& pack) {
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) store(p + i * lanes<T>, pack.v[i]);
}

// The first `count` elements, at most one for each lane; the other lanes are 0.
template <class T> ARU_FUNCTION vec<T> load_first(const T* p, int64_t count) {
  if (count >= lanes<T>) return load(p);
  vec<T> v{};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
template <class T> ARU_FUNCTION void store_first(T* p, vec<T> v, int64_t count) {
  if (count >= lanes<T>) return store(p, v);
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}

// Selects lanes of a and b by index; the lanes of b follow those of a.
#ifdef __clang__
#define ARU_SHUFFLE(V, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define ARU_SHUFFLE(V, a, b, ...) __builtin_shuffle(a, b, bits_of<V>{__VA_ARGS__})
#endif

// Transposes a square of vectors: exchanges blocks of D lanes, for each power of two D.
template <class T, int D, size_t... J>
ARU_FUNCTION void exchange_blocks(vec<T>& a, vec<T>& b, std::index_sequence<J...>) {
  constexpr int L = lanes<T>;
  const vec<T> low = ARU_SHUFFLE(vec<T>, a, b, (int(J) & D ? L + int(J) - D : int(J))...);
  b = ARU_SHUFFLE(vec<T>, a, b, (int(J) & D ? L + int(J) : int(J) + D)...);
  a = low;
}
template <class T, int D = lanes<T> / 2> ARU_FUNCTION void transpose(vec<T> (&rows)[lanes<T>]) {
#pragma GCC unroll 16
  for (int i = 0; i < lanes<T>; ++i)
    if (!(i & D)) exchange_blocks<T, D>(rows[i], rows[i + D], std::make_index_sequence<size_t(lanes<T>)>{});
  if constexpr (D > 1) transpose<T, D / 2>(rows);
}
#undef ARU_SHUFFLE

// Two bfloat16 numbers in a 32-bit lane: the upper halves of two floats, `low` in the lower bits.  Ties are rounded
// away from 0; a NaN stays a NaN.
ARU_FUNCTION vint32 rounded_to_bfloat16(vfloat v) {
  const vint32 bits = bit_cast<vint32>(v);
  return v == v ? bits + 0x8000 : bits | 0x400000;
}
ARU_FUNCTION vint32 pair_bfloat16(vfloat low, vfloat high) {
  return (rounded_to_bfloat16(high) & int32_t(0xffff0000)) | ((rounded_to_bfloat16(low) >> 16) & 0xffff);
}
ARU_FUNCTION vfloat low_of_pair(vint32 pair) { return bit_cast<vfloat>(pair << 16); }
ARU_FUNCTION vfloat high_of_pair(vint32 pair) { return bit_cast<vfloat>(pair & int32_t(0xffff0000)); }

// acc + the products of the lower halves + those of the upper halves.
ARU_FUNCTION vfloat dot_pairs(vfloat acc, vint32 x, vint32 y) {
#if defined(__AVX512BF16__) && ARU_VECTOR_BYTES == 64
  return (vfloat)_mm512_dpbf16_ps((__m512)acc, (__m512bh)x, (__m512bh)y);
#else
  return acc + low_of_pair(x) * low_of_pair(y) + high_of_pair(x) * high_of_pair(y);
#endif
}

}  // namespace ARU_ISA
}  // namespace aru
