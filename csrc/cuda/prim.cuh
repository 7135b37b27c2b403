// Everything that is a GPU instruction: matrix products of fragments, shuffles, barriers, stores to other blocks.
//
// tests/csrc/prim_emulated.h is its twin for the host; the kernels include this header and nothing of CUDA beside it.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__

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

// Fetches what a later step reads into the second-level cache.
ARU_DEVICE void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

ARU_DEVICE void sync_block() { __syncthreads(); }
ARU_DEVICE void sync_warp() { __syncwarp(); }

ARU_DEVICE uint32_t bits_of_float(float x) { return __float_as_uint(x); }
ARU_DEVICE float float_of_bits(uint32_t x) { return __uint_as_float(x); }
ARU_DEVICE float shuffle(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
ARU_DEVICE uint32_t shuffle(uint32_t x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
// x, of which the compiler has worked out nothing before: what seldom code needs would take registers all along.
ARU_DEVICE int anew(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
// All lanes have the same one, and so the compiler knows that branches on it do not diverge.
ARU_DEVICE int warp_index() { return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); }

// The two numbers rounded to bfloat16, the first in the low half.
ARU_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// Likewise to float16, and back.
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
// 2^x and the binary logarithm, to some 2^-22 of 1; 1 / x to an ulp where that is a normal number.
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
// The first 8 k of the same product.
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
// `count` such matrices, 2 or 4, from shared memory, each transposed: lanes 8j ... 8j+7 name the 8 rows, of 16 bytes,
// of matrix j, as shared_address() does.
template <int count> ARU_DEVICE void load_transposed(uint32_t row, uint32_t (&x)[count]) {
  static_assert(count == 2 || count == 4, "what the instruction loads");
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

// Products of a group of four warps, the first of a multiple of four (sm_90a alone): each warp has 16 of 64 rows of c
// and of A, all read one B in shared memory.  They run beside what comes after them, until group_wait(); meanwhile
// nobody may touch c, A's registers or what lies in shared memory.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool warp_groups = true;
#else
constexpr bool warp_groups = false;
#endif

// A matrix in shared memory as 8 x 8 matrices of 16-bit numbers, each of 8 rows of 16 bytes: where the first lies, and
// how many bytes are from one to the next along k and along the other dimension.
struct GroupMatrix {
  uint64_t descriptor;
  ARU_DEVICE GroupMatrix at(const void* p, int along_k, int across) {
    const uint32_t address = shared_address(p) & 0x3ffff;  // without the block's rank in its cluster
    return {uint64_t(address >> 4) | uint64_t(along_k >> 4) << 16 | uint64_t(across >> 4) << 32};
  }
  // `bytes` further on.
  ARU_METHOD GroupMatrix from(int bytes) const { return {descriptor + (bytes >> 4)}; }
};

// The instructions with 8 * tiles columns: sums are operands 0 ... p0 - 1.
template <int tiles> struct GroupProduct;
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ARU_LIST(...) __VA_ARGS__
#define ARU_GROUP_ASM(text, outputs, ...) asm volatile(text : ARU_LIST outputs : __VA_ARGS__)
#else
#define ARU_GROUP_ASM(...) __trap()
#endif
#define ARU_SUMS(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define ARU_SUMS_2 ARU_SUMS(0), ARU_SUMS(1)
#define ARU_SUMS_3 ARU_SUMS_2, ARU_SUMS(2)
#define ARU_SUMS_4 ARU_SUMS_3, ARU_SUMS(3)
#define ARU_SUMS_5 ARU_SUMS_4, ARU_SUMS(4)
#define ARU_SUMS_7 ARU_SUMS_5, ARU_SUMS(5), ARU_SUMS(6)
#define ARU_SUMS_8 ARU_SUMS_7, ARU_SUMS(7)
#define ARU_SUMS_9 ARU_SUMS_8, ARU_SUMS(8)
#define ARU_NAMES_2 "{%0, %1, %2, %3, %4, %5, %6, %7"
#define ARU_NAMES_3 ARU_NAMES_2 ", %8, %9, %10, %11"
#define ARU_NAMES_4 ARU_NAMES_3 ", %12, %13, %14, %15"
#define ARU_NAMES_5 ARU_NAMES_4 ", %16, %17, %18, %19"
#define ARU_NAMES_7 ARU_NAMES_5 ", %20, %21, %22, %23, %24, %25, %26, %27"
#define ARU_NAMES_8 ARU_NAMES_7 ", %28, %29, %30, %31"
#define ARU_NAMES_9 ARU_NAMES_8 ", %32, %33, %34, %35"
// Those with A in registers.
#define ARU_GROUP_ROWS(name, type, tiles, columns, p0, p1, p2, p3, p4, p5)                                            \
  template <bool add> ARU_DEVICE void name(float (&c)[tiles][4], const uint32_t (&a)[4], uint64_t b) {                \
    ARU_GROUP_ASM("{ .reg .pred add; setp.ne.b32 add, %" #p5 ", 0; wgmma.mma_async.sync.aligned.m64n" #columns        \
                  "k16.f32." type "." type " " ARU_NAMES_##tiles "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 \
                                                                 ", add, 1, 1, 0; }",                                 \
                  (ARU_SUMS_##tiles), "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(int(add)));             \
  }
#define ARU_GROUP_PRODUCT(tiles, columns, p0, p1, p2, p3, p4, p5)                                       \
  template <> struct GroupProduct<tiles> {                                                              \
    ARU_GROUP_ROWS(float16, "f16", tiles, columns, p0, p1, p2, p3, p4, p5)                              \
    ARU_GROUP_ROWS(bfloat16, "bf16", tiles, columns, p0, p1, p2, p3, p4, p5)                            \
    ARU_DEVICE void of_columns(float (&c)[tiles][4], uint64_t a, uint64_t b) {                          \
      ARU_GROUP_ASM("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 " ARU_NAMES_##tiles \
                    "}, %" #p0 ", %" #p1 ", 1, 1, 1, 1, 1;",                                            \
                    (ARU_SUMS_##tiles), "l"(a), "l"(b));                                                \
    }                                                                                                   \
  }
ARU_GROUP_PRODUCT(2, 16, 8, 9, 10, 11, 12, 13);
ARU_GROUP_PRODUCT(3, 24, 12, 13, 14, 15, 16, 17);
ARU_GROUP_PRODUCT(4, 32, 16, 17, 18, 19, 20, 21);
ARU_GROUP_PRODUCT(5, 40, 20, 21, 22, 23, 24, 25);
ARU_GROUP_PRODUCT(7, 56, 28, 29, 30, 31, 32, 33);
ARU_GROUP_PRODUCT(8, 64, 32, 33, 34, 35, 36, 37);
ARU_GROUP_PRODUCT(9, 72, 36, 37, 38, 39, 40, 41);

// c (16 x 8 tiles) = or += a (16 x 16) b (16 x 8 tiles); c[tile] and a as in mma(), b's rows of 16 bytes along k.
template <bool half_precision, bool add, int tiles>
ARU_DEVICE void group_mma(float (&c)[tiles][4], const uint32_t (&a)[4], const GroupMatrix& b) {
  if constexpr (half_precision)
    GroupProduct<tiles>::template float16<add>(c, a, b.descriptor);
  else
    GroupProduct<tiles>::template bfloat16<add>(c, a, b.descriptor);
}
// c (the warp's 16 rows of 64) += a^T b of bfloat16, a 16 x 64 and b 16 x 8 tiles, both with rows of 16 bytes across k.
template <int tiles>
ARU_DEVICE void group_mma_of_columns(float (&c)[tiles][4], const GroupMatrix& a, const GroupMatrix& b) {
  GroupProduct<tiles>::of_columns(c, a.descriptor, b.descriptor);
}
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Around the products of a group: before the first, after the last, and where their sums are wanted.
ARU_DEVICE void group_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
ARU_DEVICE void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
ARU_DEVICE void group_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
// What this thread has stored to shared memory is seen by the products after the next barrier.
ARU_DEVICE void publish_to_groups() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else
ARU_DEVICE void group_begin() { __trap(); }
ARU_DEVICE void group_commit() { __trap(); }
ARU_DEVICE void group_wait() { __trap(); }
ARU_DEVICE void publish_to_groups() {}
#endif
// The compiler moves no access to c beyond this.
template <int tiles> ARU_DEVICE void group_pin(float (&c)[tiles][4]) {
  ARU_UNROLL
  for (int j = 0; j < tiles; ++j) asm volatile("" : ARU_SUMS(j)::"memory");
}
// Stores from shared to device memory of one thread, in multiples of 16 bytes: what the warp's threads have stored to
// shared memory, then published, then met.  They run beside what comes after them.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
ARU_DEVICE void bulk_store(void* to, const void* from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n\tcp.async.bulk.commit_group;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
// Until all of the thread's have read the shared memory.  (To wait until they are done empties the first-level cache.)
ARU_DEVICE void bulk_stores_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
#else
ARU_DEVICE void bulk_store(void*, const void*, int) { __trap(); }
ARU_DEVICE void bulk_stores_read() { __trap(); }
#endif
// Copies 16 bytes of device memory to shared memory, past the first-level cache, or does not; runs beside what comes
// after it.  No branch: lanes that parted here would have to meet again before the next instruction of all.
ARU_DEVICE void copy_async(bool wanted, void* to, const void* from) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %0, 0; @p cp.async.cg.shared.global [%1], [%2], 16; }" ::"r"(int(wanted)),
      "r"(shared_address(to)), "l"(from)
      : "memory");
}
// Until this thread's copies are there.
ARU_DEVICE void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// A barrier of the warps of a group, the first four being group 0.
ARU_DEVICE void sync_group(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

// Clusters: sm_90 and later.  Elsewhere the host never chooses them.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
ARU_DEVICE void cluster_sync() { __trap(); }
ARU_DEVICE void mbarrier_init(bool, uint64_t*, int) { __trap(); }
ARU_DEVICE void mbarrier_expect(uint64_t*, int) { __trap(); }
ARU_DEVICE void mbarrier_wait(uint64_t*, int) { __trap(); }
ARU_DEVICE void store_async(const void*, int, uint32_t, uint32_t, const uint64_t*) { __trap(); }
#else
ARU_DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Makes the barrier, for `arrivals` arrivals a phase, known to the whole cluster at the next cluster_sync(); or does
// not.  (compute-sanitizer takes what a lane without a part in it has in the register for an address that it writes.)
ARU_DEVICE void mbarrier_init(bool wanted, uint64_t* barrier, int arrivals) {
  asm volatile(
      "{\n\t.reg .pred wanted;\n\tsetp.ne.b32 wanted, %0, 0;\n\t@wanted mbarrier.init.shared::cta.b64 [%1], %2;\n"
      "\t@wanted fence.mbarrier_init.release.cluster;\n\t}" ::"r"(int(wanted)),
      "r"(shared_address(barrier)), "r"(arrivals)
      : "memory");
}
// One arrival; the phase ends only when `bytes` more have been stored with the barrier, too.
ARU_DEVICE void mbarrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Until the phase of this parity has ended; what was stored with the barrier is then visible.  An acquire of all memory
// would empty the first-level cache at every step, with spilled registers in it; one of shared memory alone, which nvcc
// knows from 12.8 on, costs nothing.
#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1208
#define ARU_WAIT "relaxed"
#define ARU_AFTER_WAIT "\tfence.acquire.sync_restrict::shared::cluster.cluster;\n"
#else
#define ARU_WAIT "acquire"
#define ARU_AFTER_WAIT
#endif
ARU_DEVICE void mbarrier_wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "wait%=:\n\tmbarrier.try_wait.parity." ARU_WAIT
      ".cluster.shared::cta.b64 done, [%0], %1;\n"
      "\t@!done bra wait%=;\n" ARU_AFTER_WAIT "\t}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
// Stores 8 bytes to the place of `p` in block `rank` of the cluster, and counts them on that block's `barrier`.
ARU_DEVICE void store_async(const void* p, int rank, uint32_t x, uint32_t y, const uint64_t* barrier) {
  uint32_t to, counter;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(p)), "r"(rank));
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter) : "r"(shared_address(barrier)), "r"(rank));
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(to),
               "r"(x), "r"(y), "r"(counter)
               : "memory");
}
#endif

// Exchange through device memory, past the first-level cache.
ARU_DEVICE void store_device(uint2* p, uint32_t x, uint32_t y) {
  asm volatile("st.relaxed.gpu.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(x), "r"(y) : "memory");
}
ARU_DEVICE uint2 load_device(const uint2* p) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
  return v;
}
// Releases what the block stored before its last sync_block().
ARU_DEVICE void add_release(unsigned* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
ARU_DEVICE void wait_acquire(const unsigned* counter, unsigned target) {
  unsigned value;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  } while (value < target);
}

}  // namespace cuda
}  // namespace aru

#else
#include "prim_emulated.h"
#endif
