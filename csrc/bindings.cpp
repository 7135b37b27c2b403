// pybind11: sizes, strides (in elements) and addresses in, no tensor type of any library.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/workspace.h"

namespace py = pybind11;

namespace {

using Sizes = std::vector<int64_t>;

template <class T> T* address(uintptr_t p) { return reinterpret_cast<T*>(p); }

aru::Scalar scalar_of(const std::string& dtype) {
  if (dtype == "float32") return aru::Scalar::float32;
  if (dtype == "float64") return aru::Scalar::float64;
  if (dtype == "bfloat16 products") return aru::Scalar::bfloat16_products;
  throw std::invalid_argument("dtype is '" + dtype + "', expected float32, float64 or bfloat16 products.");
}

Sizes contiguous_strides(const Sizes& sizes) {
  Sizes strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0; stride *= sizes[d]) strides[d] = stride;
  return strides;
}

// Drops dimensions of size 1 and merges neighbours that every operand walks as one.
void coalesce(Sizes& sizes, const std::vector<Sizes*>& operands) {
  size_t kept = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 1) continue;
    bool merge = kept > 0;
    for (const Sizes* strides : operands)
      merge = merge && (*strides)[kept - 1] == (*strides)[d] * sizes[d];
    const size_t to = merge ? kept - 1 : kept++;
    sizes[to] = merge ? sizes[to] * sizes[d] : sizes[d];
    for (Sizes* strides : operands) (*strides)[to] = (*strides)[d];
  }
  if (kept == 0) {
    sizes.assign(1, 1);
    for (Sizes* strides : operands) strides->assign(1, 1);
    return;
  }
  sizes.resize(kept);
  for (Sizes* strides : operands) strides->resize(kept);
  if (kept > size_t(aru::max_dims))
    throw std::invalid_argument("gamma: more than 8 dimensions that cannot be merged; make the inputs contiguous.");
}

void copy(const Sizes& from, int64_t* to) {
  for (size_t d = 0; d < from.size(); ++d) to[d] = from[d];
}

void gamma_fwd(const std::string& dtype, Sizes sizes, uintptr_t x, Sizes x_strides, uintptr_t n, Sizes n_strides,
               uintptr_t s, Sizes s_strides, uintptr_t y, double n_floor, int threads) {
  Sizes y_strides = contiguous_strides(sizes);
  coalesce(sizes, {&x_strides, &n_strides, &s_strides, &y_strides});
  aru::GammaForward f{};
  f.shape.dims = int(sizes.size());
  copy(sizes, f.shape.size);
  copy(x_strides, f.shape.x);
  copy(n_strides, f.shape.n);
  copy(s_strides, f.shape.s);
  f.x = address<void>(x);
  f.n = address<void>(n);
  f.s = address<void>(s);
  f.y = address<void>(y);
  f.n_floor = n_floor;
  f.threads = threads;
  const aru::Scalar scalar = scalar_of(dtype);
  py::gil_scoped_release release;
  aru::kernels().gamma_fwd(scalar, f);
}

// dn_strides and ds_strides: of the contiguous gradients, 0 where the parameter is broadcast.
void gamma_bwd(const std::string& dtype, Sizes sizes, uintptr_t dy, Sizes dy_strides, uintptr_t x, Sizes x_strides,
               uintptr_t n, Sizes n_strides, uintptr_t s, Sizes s_strides, uintptr_t dx, uintptr_t dn,
               Sizes dn_strides, int64_t dn_numel, uintptr_t ds, Sizes ds_strides, int64_t ds_numel, double n_floor,
               int threads) {
  Sizes dx_strides = contiguous_strides(sizes);
  coalesce(sizes, {&dy_strides, &x_strides, &n_strides, &s_strides, &dx_strides, &dn_strides, &ds_strides});
  aru::GammaBackward f{};
  f.shape.dims = int(sizes.size());
  copy(sizes, f.shape.size);
  copy(dy_strides, f.shape.dy);
  copy(x_strides, f.shape.x);
  copy(n_strides, f.shape.n);
  copy(s_strides, f.shape.s);
  f.dy = address<void>(dy);
  f.x = address<void>(x);
  f.n = address<void>(n);
  f.s = address<void>(s);
  f.dx = address<void>(dx);
  f.dn.out = address<void>(dn);
  f.dn.numel = dn_numel;
  copy(dn_strides, f.dn.stride);
  f.ds.out = address<void>(ds);
  f.ds.numel = ds_numel;
  copy(ds_strides, f.ds.stride);
  f.n_floor = n_floor;
  f.threads = threads;
  const aru::Scalar scalar = scalar_of(dtype);
  py::gil_scoped_release release;
  aru::kernels().gamma_bwd(scalar, f);
}

// Addresses in the order of a struct's fields; 0 is null.
class Addresses {
 public:
  explicit Addresses(const std::vector<uintptr_t>& values) : values_(values) {}
  ~Addresses() noexcept(false) {
    if (next_ != values_.size() && !std::uncaught_exceptions())
      throw std::invalid_argument("expected " + std::to_string(next_) + " addresses, got " +
                                  std::to_string(values_.size()) + ".");
  }
  void operator()(const void*& field) { field = address<void>(values_.at(next_++)); }
  void operator()(void*& field) { field = address<void>(values_.at(next_++)); }
  template <class... Fields> void fill(Fields&... fields) { ((*this)(fields), ...); }

 private:
  const std::vector<uintptr_t>& values_;
  size_t next_ = 0;
};

// (T, B, H, G, tile, segment)
aru::SequenceSizes sequence_sizes(const std::array<int64_t, 6>& z) { return {z[0], z[1], z[2], z[3], z[4], z[5]}; }

void fill(Addresses& next, aru::ControllerWeights& w) {
  next.fill(w.weight_ag, w.weight_gg, w.bias_g, w.weight_gc, w.bias_c);
}

// A binding whose pointers fill a struct by `read`, in the order of the struct's fields.
template <class Struct, void (*aru::Kernels::*kernel)(aru::Scalar, const Struct&), void (*read)(Addresses&, Struct&)>
void run(const std::string& dtype, const std::array<int64_t, 6>& sizes, const std::vector<uintptr_t>& addresses,
         double n_floor, int threads) {
  Struct f{};
  f.sizes = sequence_sizes(sizes);
  f.n_floor = n_floor;
  f.threads = threads;
  {
    Addresses next(addresses);
    read(next, f);
  }
  const aru::Scalar scalar = scalar_of(dtype);
  py::gil_scoped_release release;
  (aru::kernels().*kernel)(scalar, f);
}

void read_aru_fwd(Addresses& next, aru::AruForward& f) {
  next.fill(f.xp, f.h0, f.g0, f.weight_hh);
  fill(next, f.controller);
  next.fill(f.h, f.a, f.n, f.s, f.g_last, f.kept);
}

void read_aru_bwd(Addresses& next, aru::AruBackward& f) {
  next.fill(f.h0, f.weight_hh);
  fill(next, f.controller);
  next.fill(f.h, f.a, f.n, f.s, f.kept, f.d_h, f.d_a, f.d_n, f.d_s, f.d_h_last, f.d_g_last, f.d_xp, f.d_h0, f.d_g0,
            f.d_weight_hh, f.d_weight_ag, f.d_weight_gg, f.d_bias_g, f.d_weight_gc, f.d_bias_c);
}

void read_gamma_rnn_fwd(Addresses& next, aru::GammaRnnForward& f) {
  next.fill(f.xp, f.h0, f.weight_hh, f.n, f.s, f.h, f.a);
}

void read_gamma_rnn_bwd(Addresses& next, aru::GammaRnnBackward& f) {
  next.fill(f.h0, f.weight_hh, f.n, f.s, f.h, f.a, f.d_h, f.d_a, f.d_h_last, f.d_xp, f.d_h0, f.d_weight_hh, f.d_n,
            f.d_s);
}

// Memory for kept state, given back for reuse when Python lets go of it.
class StateBuffer {
 public:
  explicit StateBuffer(size_t bytes) : bytes_(bytes), data_(aru::acquire_buffer(bytes)) {}
  ~StateBuffer() { aru::release_buffer(data_); }
  StateBuffer(const StateBuffer&) = delete;
  StateBuffer& operator=(const StateBuffer&) = delete;
  py::buffer_info info() {
    return py::buffer_info(data_, 1, py::format_descriptor<uint8_t>::format(), py::ssize_t(bytes_));
  }

 private:
  size_t bytes_;
  void* data_;
};

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Kernels of aru_kernels; aru_kernels.cpu is their Python face.";
  m.attr("version") = ARU_VERSION;
  m.attr("compiler") = __VERSION__;
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
  m.def("isa", [] { return std::string(aru::kernels().isa); });
  m.def("bfloat16_products", [] { return aru::kernels().bfloat16_products; });
  m.def("usable_isas", &aru::usable_isas);
  m.def("select_isa", &aru::select_isa);
  m.def("gamma_fwd", &gamma_fwd);
  m.def("gamma_bwd", &gamma_bwd);
  m.def("strip", [](const std::string& dtype) { return aru::kernels().strip(scalar_of(dtype)); });
  m.def("kept_elements", [](const std::string& dtype, const std::array<int64_t, 6>& sizes) {
    return aru::kernels().kept_elements(scalar_of(dtype), sequence_sizes(sizes));
  });
  m.def("aru_fwd", &run<aru::AruForward, &aru::Kernels::aru_fwd, read_aru_fwd>);
  m.def("aru_bwd", &run<aru::AruBackward, &aru::Kernels::aru_bwd, read_aru_bwd>);
  m.def("gamma_rnn_fwd", &run<aru::GammaRnnForward, &aru::Kernels::gamma_rnn_fwd, read_gamma_rnn_fwd>);
  m.def("gamma_rnn_bwd", &run<aru::GammaRnnBackward, &aru::Kernels::gamma_rnn_bwd, read_gamma_rnn_bwd>);
  py::class_<StateBuffer>(m, "StateBuffer", py::buffer_protocol())
      .def(py::init<size_t>())
      .def_buffer(&StateBuffer::info);
  m.def("idle_bytes", &aru::idle_bytes);
  m.def("free_idle", &aru::free_idle);
}
