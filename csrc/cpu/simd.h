// SIMD vectors by the compiler's vector extension (GCC, Clang): one source for every instruction set.
//
// ARU_VECTOR_BYTES is the width of a register: 64 (AVX-512), 32 (AVX2), 16 (SSE2, NEON).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../aru_math.h"

namespace aru {
namespace ARU_ISA {

typedef float vfloat __attribute__((vector_size(ARU_VECTOR_BYTES)));
typedef double vdouble __attribute__((vector_size(ARU_VECTOR_BYTES)));
typedef int32_t vint32 __attribute__((vector_size(ARU_VECTOR_BYTES)));
typedef int64_t vint64 __attribute__((vector_size(ARU_VECTOR_BYTES)));

template <> struct element<vfloat> { using type = float; using bits = vint32; };
template <> struct element<vdouble> { using type = double; using bits = vint64; };

template <class T> struct vector_of;
template <> struct vector_of<float> { using type = vfloat; };
template <> struct vector_of<double> { using type = vdouble; };
template <class T> using vec = typename vector_of<T>::type;
template <class T> constexpr int lanes = ARU_VECTOR_BYTES / int(sizeof(T));

// Loads and stores at any alignment; memcpy compiles to one move.
template <class T> ARU_FUNCTION vec<T> load(const T* p) {
  vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
template <class T> ARU_FUNCTION void store(T* p, vec<T> v) { __builtin_memcpy(p, &v, sizeof(v)); }

// The first `count` elements (all lanes if there are that many); the other lanes are 0.
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

}  // namespace ARU_ISA
}  // namespace aru
