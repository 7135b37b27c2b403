// Compiled once per instruction set: ARU_ISA and ARU_VECTOR_BYTES come from setup.py.
#include "gamma.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "kernels.h"
#include "tiles.h"

namespace aru {
namespace ARU_ISA {
namespace {

constexpr int64_t block = 512;            // elements of a pass, whose operands stay in the first-level cache
constexpr int64_t task_elements = 32768;  // fewest elements for which waking a thread pays

// A run of at most `block` elements along the innermost dimension; offsets in elements.
struct Block {
  int64_t length, out, x, n, s, dy, dn, ds;
};

int64_t blocks_per_row(const GammaShape& shape) { return ceil_div(shape.size[shape.dims - 1], block); }

int64_t count_blocks(const GammaShape& shape) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < shape.dims; ++d) rows *= shape.size[d];
  return rows * blocks_per_row(shape);
}

int64_t count_elements(const GammaShape& shape) {
  int64_t n = 1;
  for (int d = 0; d < shape.dims; ++d) n *= shape.size[d];
  return n;
}

Block find_block(const GammaShape& shape, int64_t index, const int64_t* dn_stride, const int64_t* ds_stride) {
  const int inner = shape.dims - 1;
  const int64_t start = index % blocks_per_row(shape) * block;
  int64_t row = index / blocks_per_row(shape);
  Block b{};
  b.length = shape.size[inner] - start < block ? shape.size[inner] - start : block;
  b.out = row * shape.size[inner] + start;
  const auto advance = [&](int d, int64_t i) {
    b.x += i * shape.x[d];
    b.n += i * shape.n[d];
    b.s += i * shape.s[d];
    b.dy += i * shape.dy[d];
    if (dn_stride) b.dn += i * dn_stride[d];
    if (ds_stride) b.ds += i * ds_stride[d];
  };
  advance(inner, start);
  for (int d = inner - 1; d >= 0; --d) {
    advance(d, row % shape.size[d]);
    row /= shape.size[d];
  }
  return b;
}

// Elements that are computed side by side; a block is a multiple of that.
template <class T> constexpr int64_t width = side_by_side * lanes<T>;
template <class T> ARU_FUNCTION Pack<vec<T>, side_by_side> load_width(const T* p) {
  return load_pack<T, side_by_side>(p);
}
template <class T> ARU_FUNCTION void store_width(T* p, const Pack<vec<T>, side_by_side>& pack) {
  store_pack<T, side_by_side>(p, pack);
}

// The elements of a strided operand, gathered into an array of whole packs.
template <class T> struct Operand {
  T buffer[block];

  const T* gather(const T* p, int64_t stride, int64_t length) {
    if (stride == 1 && length % width<T> == 0) return p;
    const int64_t padded = ceil_div(length, width<T>) * width<T>;
    if (stride == 0) {
      std::fill_n(buffer, padded, *p);
      return buffer;
    }
    for (int64_t i = 0; i < length; ++i) buffer[i] = p[i * stride];
    std::fill(buffer + length, buffer + padded, T(1));
    return buffer;
  }
};

template <class T> void forward_block(const GammaForward& f, const Block& b) {
  const GammaShape& shape = f.shape;
  const int inner = shape.dims - 1;
  Operand<T> x_operand, n_operand, s_operand;
  const T* x = x_operand.gather(static_cast<const T*>(f.x) + b.x, shape.x[inner], b.length);
  const T* n = n_operand.gather(static_cast<const T*>(f.n) + b.n, shape.n[inner], b.length);
  const T* s = s_operand.gather(static_cast<const T*>(f.s) + b.s, shape.s[inner], b.length);
  T* y = static_cast<T*>(f.y) + b.out;
  T result[block];
  for (int64_t i = 0; i < b.length; i += width<T>)
    store_width<T>(result + i, gamma_value(load_width(x + i), load_width(n + i), load_width(s + i), T(f.n_floor)));
  std::memcpy(y, result, sizeof(T) * size_t(b.length));
}

// Adds a block's derivatives to a parameter's partial sums; a scalar within the block is summed first.
template <class T> void accumulate(double* sums, int64_t stride, const T* values, int64_t length) {
  if (stride == 0) {
    double part[8] = {};  // independent chains, so that the sum does not wait for each addition
    for (int64_t i = 0; i < length; ++i) part[i % 8] += double(values[i]);
    *sums += ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
  } else {
    for (int64_t i = 0; i < length; ++i) sums[i * stride] += double(values[i]);
  }
}

template <class T> void backward_block(const GammaBackward& f, const Block& b, double* dn_sums, double* ds_sums) {
  const GammaShape& shape = f.shape;
  const int inner = shape.dims - 1;
  Operand<T> dy_operand, x_operand, n_operand, s_operand;
  const T* dy = dy_operand.gather(static_cast<const T*>(f.dy) + b.dy, shape.dy[inner], b.length);
  const T* x = x_operand.gather(static_cast<const T*>(f.x) + b.x, shape.x[inner], b.length);
  const T* n = n_operand.gather(static_cast<const T*>(f.n) + b.n, shape.n[inner], b.length);
  const T* s = s_operand.gather(static_cast<const T*>(f.s) + b.s, shape.s[inner], b.length);
  T dx[block], dn[block], ds[block];
  for (int64_t i = 0; i < b.length; i += width<T>) {
    const auto upstream = load_width(dy + i);
    const auto d = gamma_derivatives(load_width(x + i), load_width(n + i), load_width(s + i), T(f.n_floor));
    store_width<T>(dx + i, upstream * d.dx);
    store_width<T>(dn + i, upstream * d.dn);
    store_width<T>(ds + i, upstream * d.ds);
  }
  std::memcpy(static_cast<T*>(f.dx) + b.out, dx, sizeof(T) * size_t(b.length));
  const auto emit = [&](const GammaParameterGradient& gradient, double* sums, int64_t offset, const T* values) {
    if (sums) {
      accumulate(sums + offset, gradient.stride[inner], values, b.length);
    } else {
      std::memcpy(static_cast<T*>(gradient.out) + b.out, values, sizeof(T) * size_t(b.length));
    }
  };
  emit(f.dn, dn_sums, b.dn, dn);
  emit(f.ds, ds_sums, b.ds, ds);
}

// Partial sums of one parameter: a row for each task, added up in the order of the tasks.  A parameter with a value for
// every element needs none.
class PartialSums {
 public:
  PartialSums(const GammaParameterGradient& gradient, int64_t elements, int64_t tasks)
      : gradient_(gradient), tasks_(tasks) {
    if (gradient.numel == elements) return;
    data_.reset(static_cast<double*>(std::calloc(size_t(tasks * gradient.numel), sizeof(double))));
    if (!data_) throw std::bad_alloc();
  }

  double* row(int64_t task) { return data_ ? data_.get() + task * gradient_.numel : nullptr; }

  template <class T> void finish() {
    if (!data_) return;
    T* out = static_cast<T*>(gradient_.out);
    for (int64_t i = 0; i < gradient_.numel; ++i) {
      double sum = 0;
      for (int64_t task = 0; task < tasks_; ++task) sum += row(task)[i];
      out[i] = T(sum);
    }
  }

 private:
  struct Free {
    void operator()(double* p) const { std::free(p); }
  };
  const GammaParameterGradient& gradient_;
  int64_t tasks_;
  std::unique_ptr<double, Free> data_;
};

int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : (x > high ? high : x); }

template <class T> void forward(const GammaForward& f) {
  const int64_t blocks = count_blocks(f.shape);
  const int64_t tasks = clamp(count_elements(f.shape) / task_elements, 1, blocks);
  parallel_for(tasks, f.threads, [&](int64_t task) {
    for (int64_t i = blocks * task / tasks; i < blocks * (task + 1) / tasks; ++i)
      forward_block<T>(f, find_block(f.shape, i, nullptr, nullptr));
  });
}

template <class T> void backward(const GammaBackward& f) {
  const int64_t elements = count_elements(f.shape), blocks = count_blocks(f.shape);
  // Each task has a row of partial sums; the rows have at most as many elements as they sum.
  const auto partial = [&](const GammaParameterGradient& g) { return g.numel == elements ? 0 : g.numel; };
  const int64_t longest = partial(f.dn) > partial(f.ds) ? partial(f.dn) : partial(f.ds);
  const int64_t most = longest ? clamp(elements / longest, 1, blocks) : blocks;
  const int64_t tasks = clamp(elements / task_elements, 1, most);
  PartialSums dn(f.dn, elements, tasks), ds(f.ds, elements, tasks);
  parallel_for(tasks, f.threads, [&](int64_t task) {
    for (int64_t i = blocks * task / tasks; i < blocks * (task + 1) / tasks; ++i)
      backward_block<T>(f, find_block(f.shape, i, f.dn.stride, f.ds.stride), dn.row(task), ds.row(task));
  });
  dn.template finish<T>();
  ds.template finish<T>();
}

}  // namespace

void gamma_fwd(Scalar scalar, const GammaForward& f) {
  scalar == Scalar::float64 ? forward<double>(f) : forward<float>(f);
}

void gamma_bwd(Scalar scalar, const GammaBackward& f) {
  scalar == Scalar::float64 ? backward<double>(f) : backward<float>(f);
}

}  // namespace ARU_ISA
}  // namespace aru
