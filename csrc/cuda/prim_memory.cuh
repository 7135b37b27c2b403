// Asynchronous copies, and stores to other blocks: to their shared memory in a cluster, or through device memory.
#pragma once

#include "prim_threads.cuh"

namespace aru {
namespace cuda {

// One thread copies a multiple of 16 bytes from shared to device memory, asynchronously.  The warp's threads must have
// stored the bytes, called publish_to_groups() and met.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
ARU_DEVICE void bulk_store(void* to, const void* from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n\tcp.async.bulk.commit_group;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
// Waits until this thread's bulk stores have read shared memory.  (Waiting for their end would empty the first-level
// cache.)
ARU_DEVICE void bulk_stores_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
#else
ARU_DEVICE void bulk_store(void*, const void*, int) { __trap(); }
ARU_DEVICE void bulk_stores_read() { __trap(); }
#endif
// If wanted, copies 16 bytes from device to shared memory asynchronously and past the first-level cache.  A predicate
// instead of a branch: lanes that diverged here would have to reconverge before the warp's next collective instruction.
ARU_DEVICE void copy_async(bool wanted, void* to, const void* from) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %0, 0; @p cp.async.cg.shared.global [%1], [%2], 16; }" ::"r"(int(wanted)),
      "r"(shared_address(to)), "l"(from)
      : "memory");
}
// Waits for this thread's copies.
ARU_DEVICE void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Clusters exist from sm_90 on; for older GPUs the host never chooses them.
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
// If wanted, initialises the barrier with `arrivals` arrivals a phase; the cluster sees it after the next
// cluster_sync().  A predicate instead of a branch, because compute-sanitizer reports the address that an inactive lane
// happens to hold.
ARU_DEVICE void mbarrier_init(bool wanted, uint64_t* barrier, int arrivals) {
  asm volatile(
      "{\n\t.reg .pred wanted;\n\tsetp.ne.b32 wanted, %0, 0;\n\t@wanted mbarrier.init.shared::cta.b64 [%1], %2;\n"
      "\t@wanted fence.mbarrier_init.release.cluster;\n\t}" ::"r"(int(wanted)),
      "r"(shared_address(barrier)), "r"(arrivals)
      : "memory");
}
// Arrives once and makes the phase wait for `bytes` more that are stored with this barrier.
ARU_DEVICE void mbarrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Waits until the phase of this parity has ended; then what was stored with the barrier is visible.  An acquire of all
// memory would empty the first-level cache, which holds spilled registers, at every step.  An acquire of shared memory
// only, which nvcc knows from 12.8 on, costs nothing.
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
// Stores 8 bytes to the address of `p` in block `rank` of the cluster and counts them on that block's `barrier`.
ARU_DEVICE void store_async(const void* p, int rank, uint32_t x, uint32_t y, const uint64_t* barrier) {
  uint32_t to, counter;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(p)), "r"(rank));
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter) : "r"(shared_address(barrier)), "r"(rank));
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(to),
               "r"(x), "r"(y), "r"(counter)
               : "memory");
}
#endif

// Stores and loads of device memory past the first-level cache.
ARU_DEVICE void store_device(uint2* p, uint32_t x, uint32_t y) {
  asm volatile("st.relaxed.gpu.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(x), "r"(y) : "memory");
}
ARU_DEVICE uint2 load_device(const uint2* p) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
  return v;
}
// Adds 1 and releases what the block stored before its last sync_block().
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
