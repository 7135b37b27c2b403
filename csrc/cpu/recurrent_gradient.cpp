// dW_hh as one matrix product after the time loop.  Compiled once per instruction set.
#include "tiles.h"

namespace aru {
namespace ARU_ISA {
namespace {

constexpr int64_t chunk_rows = 128;  // rows packed at a time
constexpr int64_t task_rows = 1024;  // rows that justify a partial sum of their own
constexpr int64_t most_tasks = 16;

// Packs rows of (rows, size) as [block of `width` columns][row][width], zero beyond the last column.
template <class T> void pack_blocks(const T* from, int64_t rows, int64_t size, int64_t width, T* to) {
  for (int64_t first = 0; first < size; first += width) {
    const int64_t count = at_most(width, size - first);
    for (int64_t r = 0; r < rows; ++r, to += width) {
      for (int64_t i = 0; i < count; ++i) to[i] = from[r * size + first + i];
      for (int64_t i = count; i < width; ++i) to[i] = T(0);
    }
  }
}

// c, padded to whole blocks, += a^T b for `rows` rows of (rows, size).
template <class T>
void add_outer(const T* a, const T* b, int64_t rows, int64_t size, T* packed_a, T* packed_b, T* c, int64_t stride) {
  constexpr int64_t panel = panel_vectors * lanes<T>;
  for (int64_t first = 0; first < rows; first += chunk_rows) {
    const int64_t count = at_most(chunk_rows, rows - first);
    pack_blocks(a + first * size, count, size, int64_t(row_block), packed_a);
    pack_blocks(b + first * size, count, size, panel, packed_b);
    for (int64_t n = 0; n < ceil_div(size, panel); ++n)
      for (int64_t m = 0; m < ceil_div(size, int64_t(row_block)); ++m) {
        T* block = c + m * row_block * stride + n * panel;
        micro_kernel<T, row_block, panel_vectors, true>(packed_a + m * row_block * count, packed_b + n * panel * count,
                                                        block, block, stride, count, lanes<T>);
      }
  }
}

}  // namespace

template <class T>
void recurrent_weight_gradient(const SequenceSizes& z, const T* da, const T* h, const T* h0, T* out, int threads) {
  constexpr int64_t panel = panel_vectors * lanes<T>;
  const int64_t H = z.H, rows = z.T * z.B, later = rows - z.B;
  const int64_t stride = ceil_div(H, panel) * panel, height = ceil_div(H, int64_t(row_block)) * row_block;
  const int64_t tasks = at_most(ceil_div(rows, task_rows), most_tasks);
  const Buffer<T> parts(tasks * height * stride);
  parallel_for(tasks, threads, [&](int64_t task) {
    Carver count;
    count.take<T>(chunk_rows * height);
    count.take<T>(chunk_rows * stride);
    Carver carve(thread_scratch(count.used()));
    T* packed_a = carve.take<T>(chunk_rows * height);
    T* packed_b = carve.take<T>(chunk_rows * stride);
    T* c = parts.get() + task * height * stride;
    std::memset(c, 0, sizeof(T) * size_t(height * stride));
    // Row r >= B of da meets row r - B of h; the first B rows meet h0.
    if (task == 0) add_outer(da, h0, z.B, H, packed_a, packed_b, c, stride);
    const int64_t first = later * task / tasks, end = later * (task + 1) / tasks;
    add_outer(da + (z.B + first) * H, h + first * H, end - first, H, packed_a, packed_b, c, stride);
  });
  for (int64_t m = 0; m < H; ++m)
    for (int64_t n = 0; n < H; ++n) {
      double sum = 0;
      for (int64_t task = 0; task < tasks; ++task) sum += double(parts.get()[(task * height + m) * stride + n]);
      out[m * H + n] = T(sum);
    }
}

template void recurrent_weight_gradient(const SequenceSizes&, const float*, const float*, const float*, float*, int);
template void recurrent_weight_gradient(const SequenceSizes&, const double*, const double*, const double*, double*,
                                        int);

}  // namespace ARU_ISA
}  // namespace aru
