// Matrix products of one warp, and the transposes that their operands need.
#pragma once

#include "prim_threads.cuh"

namespace aru {
namespace cuda {

// c (16 x 8) += a (16 x 16) b (16 x 8).  With q = lane % 4 and r = lane / 4 a lane holds
//   c[0], c[1]: row r, columns 2q, 2q+1; c[2], c[3]: row r+8, the same columns;
//   a[0], a[1]: rows r, r+8 and k 2q, 2q+1; a[2], a[3]: the same rows and k 2q+8, 2q+9;
//   b[0], b[1]: column r and k 2q, 2q+1 and 2q+8, 2q+9.
// The numbers are bfloat16 or, `half_precision`, float16.
#define ARU_MMA(shape, type) "mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 {%0,%1,%2,%3}, "
#define ARU_MMA_16(type)                                                          \
  asm volatile(ARU_MMA("m16n8k16", type) "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define ARU_MMA_8(type)                                                 \
  asm volatile(ARU_MMA("m16n8k8", type) "{%4,%5}, {%6}, {%0,%1,%2,%3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])         \
               : "r"(a[0]), "r"(a[1]), "r"(b))
template <bool half_precision> ARU_DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (half_precision)
    ARU_MMA_16("f16");
  else
    ARU_MMA_16("bf16");
}
// The same product over the first 8 k only.
template <bool half_precision> ARU_DEVICE void mma_8(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  if constexpr (half_precision)
    ARU_MMA_8("f16");
  else
    ARU_MMA_8("bf16");
}
// c (16 x 8) += a (16 x 8) b (8 x 8) in TF32.  c as above, and a lane holds
//   a[0], a[1]: rows r, r+8 and k q; a[2], a[3]: the same rows and k q+4;
//   b[0], b[1]: column r and k q and q+4.
ARU_DEVICE void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Transposes an 8 x 8 matrix of 16-bit numbers: a lane holds row r, columns 2q and 2q+1, before and after.
ARU_DEVICE uint32_t transpose(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
// Loads `count` (2 or 4) such matrices from shared memory and transposes each.  Lanes 8j ... 8j+7 pass the addresses
// (shared_address()) of the 8 rows of matrix j, each of 16 bytes.
template <int count> ARU_DEVICE void load_transposed(uint32_t row, uint32_t (&x)[count]) {
  static_assert(count == 2 || count == 4, "the instruction loads 2 or 4 matrices");
  if constexpr (count == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(row)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(x[0]), "=r"(x[1])
                 : "r"(row)
                 : "memory");
}

}  // namespace cuda
}  // namespace aru
