// Threads, warps and blocks, conversions of numbers and the special functions.
#pragma once

#include <cstddef>
#include <cstdint>

#define ARU_DEVICE static __device__ __forceinline__
#define ARU_METHOD __device__ __forceinline__
#define ARU_UNROLL _Pragma("unroll")
#define ARU_ROLLED _Pragma("unroll 1")
#define ARU_PRAGMA(text) _Pragma(#text)
#define ARU_UNROLL_BY(count) ARU_PRAGMA(unroll count)

namespace aru {
namespace cuda {

ARU_DEVICE int thread_index() { return threadIdx.x; }
ARU_DEVICE int block_threads() { return blockDim.x; }
ARU_DEVICE int block_index() { return blockIdx.x; }
ARU_DEVICE uint8_t* shared_memory() {
  extern __shared__ __align__(128) uint8_t aru_shared_memory[];
  return aru_shared_memory;
}
ARU_DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// Fetches a line into the second-level cache.
ARU_DEVICE void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

ARU_DEVICE void sync_block() { __syncthreads(); }
ARU_DEVICE void sync_warp() { __syncwarp(); }

ARU_DEVICE uint32_t bits_of_float(float x) { return __float_as_uint(x); }
ARU_DEVICE float float_of_bits(uint32_t x) { return __uint_as_float(x); }
ARU_DEVICE float shuffle(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
ARU_DEVICE uint32_t shuffle(uint32_t x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
// Hides x from the optimiser, which would otherwise compute what rare code needs in advance and hold it in registers.
ARU_DEVICE int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
// The same in all lanes.  The shuffle tells the compiler so: branches on the result do not diverge.
ARU_DEVICE int warp_index() { return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); }

// Rounds two numbers to bfloat16; the first is the low half.
ARU_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// The same for float16, and the conversion back.
ARU_DEVICE uint32_t pack_f16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
ARU_DEVICE void unpack_f16(uint32_t x, float& low, float& high) {
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }" : "=f"(low), "=f"(high) : "r"(x));
}
ARU_DEVICE uint32_t round_to_tf32(float x) {  // to nearest, ties away from zero
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}
ARU_DEVICE float tanh_approximate(float x) {  // relative error 2^-11; exactly 1 where saturated
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 2^x and the binary logarithm have an absolute error of about 2^-22; 1 / x is good to one ulp where it is normal.
ARU_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
ARU_DEVICE float log2_approximate(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
ARU_DEVICE float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace cuda
}  // namespace aru
