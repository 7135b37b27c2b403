// Common parts of the sequence kernels: tiles of sequences, scratch memory, and sums in a fixed order.
#pragma once

#include <cstring>
#include <new>

#include "gemm.h"
#include "parallel.h"
#include "sequence.h"
#include "strips.h"
#include "workspace.h"

namespace aru {
namespace ARU_ISA {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t at_most(int64_t x, int64_t limit) { return x < limit ? x : limit; }

// A buffer that lives for one call and that all its threads share; null without elements.
template <class T> class Buffer {
 public:
  explicit Buffer(int64_t elements)
      : data_(elements ? static_cast<T*>(acquire_buffer(size_t(elements) * sizeof(T))) : nullptr) {}
  ~Buffer() {
    if (data_) release_buffer(data_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }
  // The address of an element, or null without elements.
  T* from(int64_t element) const { return data_ ? data_ + element : nullptr; }

 private:
  T* data_;
};

// Hands out pieces of a block of memory, each on cache lines of its own.  Without a block it counts the bytes.
class Carver {
 public:
  explicit Carver(void* base = nullptr) : base_(reinterpret_cast<uintptr_t>(base)) {}
  template <class T> T* take(int64_t elements) {
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += (size_t(elements) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  uintptr_t base_;
  size_t used_ = 0;
};

inline int64_t tile_count(const SequenceSizes& z) { return ceil_div(z.B, z.tile); }

// The sequences b0 ... b0 + count - 1.  The tiles are as equal as possible, so that threads have the same work.
struct Tile {
  int64_t index;
  int64_t b0, count;     // first sequence, number of sequences
  int64_t rows, offset;  // number of rows (b, i); the first one's offset in a (B, H) slice

  Tile(const SequenceSizes& z, int64_t index)
      : index(index), b0(first(z, index)), count(first(z, index + 1) - b0), rows(count * z.H), offset(b0 * z.H) {}

 private:
  static int64_t first(const SequenceSizes& z, int64_t index) { return z.B * index / tile_count(z); }
};

// Rows (b, i) of a tile, padded to whole strips.
template <class T> int64_t padded_rows(const SequenceSizes& z) {
  return ceil_div(at_most(z.tile, z.B) * z.H, strip<T>) * strip<T>;
}

// The number of parts into which the neurons of a tile are cut.  If there are fewer tiles than threads, a team of
// threads shares the parts of a tile in every step.  A step then has two barriers, each below a microsecond if every
// thread has a processor; a part has at least part_work multiply-adds a step, so that they do not matter.  The number
// is a power of two, so that few threads share the parts evenly, and depends on the sizes only, because each part has
// its own sums.
constexpr int64_t most_parts = 8, part_work = 200 * 1000;
inline int64_t part_count(const SequenceSizes& z) {
  const int64_t work = at_most(z.tile, z.B) * z.H * (z.G * (z.G + 14) + z.H);
  int64_t parts = 1;
  while (2 * parts * tile_count(z) <= most_parts && 2 * parts * part_work <= work) parts *= 2;
  return parts;
}

template <class T> const T* at(const void* p, int64_t offset) {
  return p ? static_cast<const T*>(p) + offset : nullptr;
}
template <class T> T* at(void* p, int64_t offset) { return p ? static_cast<T*>(p) + offset : nullptr; }

// Fetches the cache line of an element of the next step.  A step's rows lie on other pages than the previous step's,
// and processors do not fetch ahead from page to page, which took 11% of the time at (16, 784, 64, 16) on a Zen 3.
template <class T> void prefetch_row(const T* p) { __builtin_prefetch(p, 0, 2); }
template <class T> void prefetch_row_to_write(const T* p) { __builtin_prefetch(p, 1, 2); }
// The same for the lines of [p, p + count).
template <class T> void prefetch_rows(const T* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) prefetch_row(p + i);
}
template <class T> void prefetch_rows_to_write(const T* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) prefetch_row_to_write(p + i);
}

// to = a + b; null counts as zero.
template <class T> void sum_or_zero(T* to, const T* a, const T* b, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = (a ? a[i] : T(0)) + (b ? b[i] : T(0));
}

// Adds the lanes in a fixed order.
template <class T> double sum_lanes(vec<T> v) {
  double sum = 0;
  for (int i = 0; i < lanes<T>; ++i) sum += double(v[i]);
  return sum;
}

// out[i] = sum of parts[part][i] in the order of the parts.
template <class T> void sum_parts(const double* parts, int64_t count, int64_t stride, int64_t elements, T* out) {
  for (int64_t i = 0; i < elements; ++i) {
    double sum = 0;
    for (int64_t part = 0; part < count; ++part) sum += parts[part * stride + i];
    out[i] = T(sum);
  }
}

// out (H, H) = sum over t and b of da_t h_{t-1}^T, h_{-1} = h0; da and h are (T, B, H).
template <class T>
void recurrent_weight_gradient(const SequenceSizes& z, const T* da, const T* h, const T* h0, T* out, int threads);

}  // namespace ARU_ISA
}  // namespace aru
