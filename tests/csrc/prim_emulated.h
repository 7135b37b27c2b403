// The instructions of csrc/cuda/prim.cuh on the host, for threads that are fibers (emulated_machine.h).  The build
// names this file by ARU_PRIMITIVES.
#pragma once

#include <array>
#include <cmath>
#include <cstring>

#include "emulated_machine.h"

#define ARU_DEVICE static inline
#define ARU_METHOD inline
#define ARU_UNROLL
#define ARU_ROLLED
#define ARU_UNROLL_BY(count)

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace aru {
namespace cuda {

using emulation::machine;

ARU_DEVICE int thread_index() { return machine().current->thread; }
ARU_DEVICE int warp_index() { return thread_index() / 32; }
ARU_DEVICE int block_threads() { return machine().threads; }
ARU_DEVICE int block_index() { return machine().first_block + machine().current->block; }
ARU_DEVICE uint8_t* shared_memory() { return machine().shared[size_t(machine().current->block)]; }

ARU_DEVICE void prefetch(const void*) {}

ARU_DEVICE void sync_block() { machine().meet(machine().barrier(0), machine().threads); }
ARU_DEVICE void sync_warp() {
  auto& m = machine();
  emulation::Warp& w = m.warps[size_t(m.current->block * m.threads + m.current->thread) / 32];
  void* mark = w.marks.mark(w.generation);
  emulation::release(mark);
  m.warp_operation(1, nullptr, 0, nullptr, 0, [](emulation::Warp&) {});
  emulation::acquire(mark);
}

ARU_DEVICE int opaque(int x) { return x; }
ARU_DEVICE uint32_t bits_of_float(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
ARU_DEVICE float float_of_bits(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
ARU_DEVICE uint32_t shuffle(uint32_t x, int lane) {
  const uint32_t in[2] = {x, uint32_t(lane) & 31};
  uint32_t out;
  machine().warp_operation(2, in, 2, &out, 1, [](emulation::Warp& w) {
    for (int l = 0; l < 32; ++l) w.out[l][0] = w.in[w.in[l][1]][0];
  });
  return out;
}
ARU_DEVICE float shuffle(float x, int lane) { return float_of_bits(shuffle(bits_of_float(x), lane)); }

ARU_DEVICE uint32_t bf16_of(float x) {
  if (x != x) return 0x7fff;
  const uint32_t u = bits_of_float(x);
  return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
ARU_DEVICE uint32_t pack_bf16(float low, float high) { return bf16_of(low) | bf16_of(high) << 16; }
ARU_DEVICE uint32_t pack_f16(float low, float high) {
  const _Float16 pair[2] = {_Float16(low), _Float16(high)};
  uint32_t u;
  std::memcpy(&u, pair, 4);
  return u;
}
ARU_DEVICE void unpack_f16(uint32_t x, float& low, float& high) {
  _Float16 pair[2];
  std::memcpy(pair, &x, 4);
  low = float(pair[0]);
  high = float(pair[1]);
}
ARU_DEVICE uint32_t round_to_tf32(float x) { return x != x ? 0x7fffe000u : (bits_of_float(x) + 0x1000u) & 0xffffe000u; }
// 11 bits of the mantissa, as the hardware has.
ARU_DEVICE float tanh_approximate(float x) {
  return float_of_bits((bits_of_float(std::tanh(x)) + 0x800u) & 0xfffff000u);
}
ARU_DEVICE float exp2_approximate(float x) { return std::exp2(x); }
ARU_DEVICE float log2_approximate(float x) { return std::log2(x); }
ARU_DEVICE float reciprocal_approximate(float x) { return 1.f / x; }

// A warp's product over `ks` k.  place(words, r, q, left, right) stores a lane's words, a[0] ... b[1], in A and the
// transpose of B.
template <int ks, class Place>
inline void product(int operation, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Place& place) {
  uint32_t in[10], out[4];
  std::memcpy(in, a, sizeof(a));
  std::memcpy(in + 4, b, sizeof(b));
  std::memcpy(in + 6, c, sizeof(c));
  machine().warp_operation(operation, in, 10, out, 4, [&](emulation::Warp& w) {
    float left[16][ks], right[8][ks];
    for (int l = 0; l < 32; ++l) place(w.in[l], l / 4, l & 3, left, right);
    for (int l = 0; l < 32; ++l)
      for (int j = 0; j < 4; ++j) {
        const float *x = left[l / 4 + (j >> 1) * 8], *y = right[2 * (l & 3) + (j & 1)];
        float sum = 0;
        for (int k = 0; k < ks; ++k) sum += x[k] * y[k];
        w.out[l][j] = bits_of_float(float_of_bits(w.in[l][6 + j]) + sum);
      }
  });
  std::memcpy(c, out, sizeof(c));
}
template <bool half_precision> ARU_DEVICE void unpack_pair(uint32_t word, float* to) {
  if constexpr (half_precision) {
    unpack_f16(word, to[0], to[1]);
  } else {
    to[0] = float_of_bits(word << 16);
    to[1] = float_of_bits(word & 0xffff0000u);
  }
}
template <bool half_precision> ARU_DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  product<16>(3, c, a, b, [](const uint32_t* words, int r, int q, float (&left)[16][16], float (&right)[8][16]) {
    for (int j = 0; j < 6; ++j) {
      float* to = j < 4 ? &left[r + (j & 1) * 8][2 * q + (j >> 1) * 8] : &right[r][2 * q + (j - 4) * 8];
      unpack_pair<half_precision>(words[j], to);
    }
  });
}
template <bool half_precision> ARU_DEVICE void mma_8(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  product<8>(7, c, {a[0], a[1], 0, 0}, {b, 0},
             [](const uint32_t* words, int r, int q, float (&left)[16][8], float (&right)[8][8]) {
               for (int j = 0; j < 2; ++j) unpack_pair<half_precision>(words[j], &left[r + j * 8][2 * q]);
               unpack_pair<half_precision>(words[4], &right[r][2 * q]);
             });
}
ARU_DEVICE void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if ((a[0] | a[1] | a[2] | a[3] | b[0] | b[1]) & 0x1fff) machine().fail("an operand that is not rounded to TF32");
  product<8>(5, c, a, b, [](const uint32_t* words, int r, int q, float (&left)[16][8], float (&right)[8][8]) {
    for (int j = 0; j < 4; ++j) left[r + (j & 1) * 8][q + (j >> 1) * 4] = float_of_bits(words[j]);
    for (int j = 0; j < 2; ++j) right[r][q + j * 4] = float_of_bits(words[4 + j]);
  });
}

ARU_DEVICE uint32_t transpose(uint32_t x) {
  uint32_t out;
  machine().warp_operation(4, &x, 1, &out, 1, [](emulation::Warp& w) {
    uint16_t m[8][8];
    for (int l = 0; l < 32; ++l) {
      m[l / 4][2 * (l & 3)] = uint16_t(w.in[l][0]);
      m[l / 4][2 * (l & 3) + 1] = uint16_t(w.in[l][0] >> 16);
    }
    for (int l = 0; l < 32; ++l) w.out[l][0] = m[2 * (l & 3)][l / 4] | uint32_t(m[2 * (l & 3) + 1][l / 4]) << 16;
  });
  return out;
}

ARU_DEVICE uint32_t shared_address(const void* p) { return uint32_t(machine().shared_offset(p, 4)); }
template <int count> ARU_DEVICE void load_transposed(uint32_t row, uint32_t (&x)[count]) {
  uint32_t words[4] = {};
  if (thread_index() % 32 < 8 * count) {
    const uint8_t* from = shared_memory() + row;
    machine().shared_offset(from, 16);
    std::memcpy(words, from, 16);
  }
  machine().warp_operation(count == 4 ? 6 : 8, words, 4, x, count, [](emulation::Warp& w) {
    for (int j = 0; j < count; ++j) {
      uint16_t m[8][8];
      for (int r = 0; r < 8; ++r) std::memcpy(m[r], w.in[8 * j + r], 16);
      for (int l = 0; l < 32; ++l) w.out[l][j] = m[2 * (l & 3)][l / 4] | uint32_t(m[2 * (l & 3) + 1][l / 4]) << 16;
    }
  });
}

// Groups of warps: every warp makes its own rows when it waits for the sums.  Its operands in shared memory must be
// complete when the product is issued, and must not have changed by then.
#ifndef ARU_EMULATED_GROUPS
#define ARU_EMULATED_GROUPS 1
#endif
constexpr bool warp_groups = ARU_EMULATED_GROUPS;

struct GroupMatrix {
  const uint8_t* first;
  int along_k, across;
  ARU_DEVICE GroupMatrix at(const void* p, int along_k, int across) {
    machine().shared_offset(p, 16);
    return {static_cast<const uint8_t*>(p), along_k, across};
  }
  ARU_METHOD GroupMatrix from(int bytes) const { return {first + bytes, along_k, across}; }
  // The word at (row, column) of the 8 x 8 matrix that k and i are in.
  template <class Word> Word word(int k, int i, int row, int column) const {
    Word x;
    const uint8_t* p = first + k / 8 * along_k + i / 8 * across + row % 8 * 16 + column % 8 * 2;
    machine().shared_offset(p, sizeof(Word));
    std::memcpy(&x, p, sizeof(Word));
    return x;
  }
  // The pair k, k + 1 of column i if rows run across k, or of row i if they run along k.
  ARU_METHOD uint32_t column_pair(int k, int i) const {
    return word<uint16_t>(k, i, k, i) | uint32_t(word<uint16_t>(k + 1, i, k + 1, i)) << 16;
  }
  ARU_METHOD uint32_t row_pair(int k, int i) const { return word<uint32_t>(k, i, i, k); }
};

// operands() reads this lane's words of shared memory; product(words) makes the product with them.
template <int tiles, class Operands, class Product>
inline void add_group_product(float (&c)[tiles][4], const Operands& operands, const Product& product) {
  const auto before = operands();
  const emulation::Machinery machinery;
  emulation::Fiber& f = *machine().current;
  if (!f.group_open) machine().fail("a product of a group that has not begun");
  if (f.group_sums.empty() || f.group_sums.back().at != &c[0][0]) {
    f.group_sums.push_back({&c[0][0], {&c[0][0], &c[0][0] + 4 * tiles}, {}});
    std::fill(&c[0][0], &c[0][0] + 4 * tiles, NAN);
  }
  f.group_sums.back().products.push_back([operands, before, product] {
    const auto words = operands();
    if (words != before) machine().fail("a group's product whose operand in shared memory changes meanwhile");
    product(words);
  });
}
template <bool half_precision, bool add, int tiles>
ARU_DEVICE void group_mma(float (&c)[tiles][4], const uint32_t (&a)[4], const GroupMatrix& b) {
  const int r = thread_index() / 4 & 7, q = thread_index() & 3;
  const auto operands = [b, r, q] {
    std::array<uint32_t, 2 * tiles> words;
    for (int j = 0; j < 2 * tiles; ++j) words[size_t(j)] = b.row_pair(2 * q + j % 2 * 8, j / 2 * 8 + r);
    return words;
  };
  const uint32_t a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
  add_group_product(c, operands, [&c, a0, a1, a2, a3](const auto& words) {
    for (size_t n = 0; n < tiles; ++n) {
      if (!add) std::fill(c[n], c[n] + 4, 0.f);
      mma<half_precision>(c[n], {a0, a1, a2, a3}, {words[2 * n], words[2 * n + 1]});
    }
  });
}
template <int tiles>
ARU_DEVICE void group_mma_of_columns(float (&c)[tiles][4], const GroupMatrix& a, const GroupMatrix& b) {
  const int r = thread_index() / 4 & 7, q = thread_index() & 3, unit = warp_index() % 4 * 16 + r;
  const auto operands = [a, b, r, q, unit] {
    std::array<uint32_t, 4 + 2 * tiles> words;
    for (int j = 0; j < 4; ++j) {  // rows of A beyond the columns of both make sums that nothing reads
      const int i = unit + j % 2 * 8;
      words[size_t(j)] = i < 8 * tiles ? a.column_pair(2 * q + j / 2 * 8, i) : 0;
    }
    for (int j = 0; j < 2 * tiles; ++j) words[size_t(4 + j)] = b.column_pair(2 * q + j % 2 * 8, j / 2 * 8 + r);
    return words;
  };
  add_group_product(c, operands, [&c](const auto& words) {
    for (size_t n = 0; n < tiles; ++n)
      mma<false>(c[n], {words[0], words[1], words[2], words[3]}, {words[4 + 2 * n], words[5 + 2 * n]});
  });
}
ARU_DEVICE void group_begin() { machine().current->group_open = true; }
ARU_DEVICE void group_commit() { machine().current->group_open = false; }
ARU_DEVICE void group_wait() {
  emulation::Fiber& f = *machine().current;
  if (f.group_open) machine().fail("a group's products that are waited for before they are committed");
  std::vector<emulation::GroupSums> all;
  all.swap(f.group_sums);
  for (const emulation::GroupSums& sums : all) {
    std::copy(sums.values.begin(), sums.values.end(), sums.at);
    for (const auto& product : sums.products) product();
  }
}
template <int tiles> ARU_DEVICE void group_pin(float (&)[tiles][4]) {}
ARU_DEVICE void publish_to_groups() {}

// Copies are made at once or, if deferred, when a thread waits for them.
inline void begin_copy(std::vector<emulation::Copy>& copies, const emulation::Copy& copy) {
  if (!machine().schedule.deferred) std::memcpy(copy.to, copy.from, copy.bytes);
  const emulation::Machinery machinery;
  copies.push_back(copy);
}
inline void finish_copies(std::vector<emulation::Copy>& copies) {
  while (!copies.empty()) {
    const emulation::Copy copy = copies.front();
    if (machine().schedule.deferred) std::memcpy(copy.to, copy.from, copy.bytes);
    const emulation::Machinery machinery;
    copies.erase(copies.begin());
  }
}
ARU_DEVICE void bulk_store(void* to, const void* from, int bytes) {
  auto& m = machine();
  for (int at = 0; at < bytes; at += 16) m.shared_offset(static_cast<const uint8_t*>(from) + at, 16);
  if (bytes % 16 || reinterpret_cast<uintptr_t>(to) % 16) m.fail("a misaligned bulk store");
  begin_copy(m.current->bulk_stores, {to, from, size_t(bytes)});
}
ARU_DEVICE void bulk_stores_read() { finish_copies(machine().current->bulk_stores); }
ARU_DEVICE void copy_async(bool wanted, void* to, const void* from) {
  if (!wanted) return;
  machine().shared_offset(to, 16);
  if (reinterpret_cast<uintptr_t>(from) % 16) machine().fail("a misaligned copy");
  begin_copy(machine().current->copies, {to, from, 16});
}
ARU_DEVICE void copies_done() { finish_copies(machine().current->copies); }
ARU_DEVICE void sync_group(int group) {
  if (group != warp_index() / 4) machine().fail("the barrier of another group");
  machine().meet(machine().barrier(1 + group), 128);
}

ARU_DEVICE void cluster_sync() { machine().meet(machine().cluster_barrier, machine().blocks * machine().threads); }
ARU_DEVICE emulation::MBarrier& own_mbarrier(const uint64_t* barrier) {
  return machine().mbarrier(machine().current->block, machine().shared_offset(barrier, 8));
}
ARU_DEVICE void mbarrier_init(bool wanted, uint64_t* barrier, int arrivals) {
  if (!wanted) return;
  const emulation::Machinery machinery;
  own_mbarrier(barrier) = {int16_t(arrivals), int16_t(arrivals), 0, 0};
}
ARU_DEVICE void mbarrier_expect(uint64_t* barrier, int bytes) {
  const emulation::Machinery machinery;
  emulation::MBarrier& b = own_mbarrier(barrier);
  emulation::release(&b);
  if (b.pending <= 0) machine().fail("an arrival at an mbarrier whose phase has all of them");
  b.bytes += bytes;
  --b.pending;
  machine().end_phase(b);
}
ARU_DEVICE void mbarrier_wait(uint64_t* barrier, int parity) {
  const emulation::Machinery machinery;
  while (int(own_mbarrier(barrier).phase) == parity) machine().yield();
  emulation::acquire(&own_mbarrier(barrier));
}
ARU_DEVICE void store_async(const void* p, int rank, uint32_t x, uint32_t y, const uint64_t* barrier) {
  auto& m = machine();
  if (rank < 0 || rank >= m.blocks) m.fail("a store to a block that is not of the cluster");
  if (m.fibers[size_t(rank * m.threads)].done) m.fail("a store to a block that has ended");
  const emulation::Store s = {rank, m.shared_offset(p, 8), m.shared_offset(barrier, 8), {x, y}};
  if (m.schedule.deferred)
    m.stores.push_back(s);
  else
    m.arrive(s);
}

ARU_DEVICE void store_device(uint2* p, uint32_t x, uint32_t y) { *p = {x, y}; }
ARU_DEVICE uint2 load_device(const uint2* p) { return *p; }
ARU_DEVICE void add_release(unsigned* counter) {
  const emulation::Machinery machinery;
  emulation::release(counter);
  ++*counter;
  ++machine().progress;
}
ARU_DEVICE void wait_acquire(const unsigned* counter, unsigned target) {
  const emulation::Machinery machinery;
  while (*static_cast<const volatile unsigned*>(counter) < target) machine().yield();
  emulation::acquire(const_cast<unsigned*>(counter));
}

}  // namespace cuda
}  // namespace aru
