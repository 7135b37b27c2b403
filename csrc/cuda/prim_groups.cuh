// Matrix products of a group of four warps (wgmma, sm_90a only).  The first warp's index is a multiple of four.  Each
// warp has 16 of the 64 rows of c and of A; all read one B in shared memory.  The products run asynchronously until
// group_wait(); until then no thread may touch c, A's registers or the operands in shared memory.
#pragma once

#include "prim_threads.cuh"

namespace aru {
namespace cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool warp_groups = true;
#else
constexpr bool warp_groups = false;
#endif

// A matrix in shared memory as 8 x 8 matrices of 16-bit numbers, each of 8 rows of 16 bytes.  Its descriptor holds the
// address of the first and the distances in bytes to the next one along k and along the other dimension.
struct GroupMatrix {
  uint64_t descriptor;
  ARU_DEVICE GroupMatrix at(const void* p, int along_k, int across) {
    const uint32_t address = shared_address(p) & 0x3ffff;  // without the block's rank in its cluster
    return {uint64_t(address >> 4) | uint64_t(along_k >> 4) << 16 | uint64_t(across >> 4) << 32};
  }
  // The matrix that starts `bytes` later.
  ARU_METHOD GroupMatrix from(int bytes) const { return {descriptor + (bytes >> 4)}; }
};

// The instructions with 8 * tiles columns.  The sums are the assembler's operands 0 ... p0 - 1.
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
// The instructions that read A from registers.
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
// Around the products of a group: before the first, after the last, and before their sums are read.
ARU_DEVICE void group_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
ARU_DEVICE void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
ARU_DEVICE void group_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
// Makes this thread's stores to shared memory visible to the products that start after the next barrier.
ARU_DEVICE void publish_to_groups() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else
ARU_DEVICE void group_begin() { __trap(); }
ARU_DEVICE void group_commit() { __trap(); }
ARU_DEVICE void group_wait() { __trap(); }
ARU_DEVICE void publish_to_groups() {}
#endif
// The compiler moves no access to c across this.
template <int tiles> ARU_DEVICE void group_pin(float (&c)[tiles][4]) {
  ARU_UNROLL
  for (int j = 0; j < tiles; ++j) asm volatile("" : ARU_SUMS(j)::"memory");
}

// A barrier of the four warps of a group; the block's first four warps are group 0.
ARU_DEVICE void sync_group(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

}  // namespace cuda
}  // namespace aru
