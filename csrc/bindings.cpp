// pybind11: sizes, strides (in elements) and addresses in, no tensor type of any library.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "addresses.h"
#include "cpu/kernels.h"
#include "cpu/workspace.h"

namespace py = pybind11;

namespace {

using Sizes = std::vector<int64_t>;

using aru::Pointers;

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
    for (const Sizes* strides : operands) merge = merge && (*strides)[kept - 1] == (*strides)[d] * sizes[d];
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

// Where an operand lies: its address and its strides in elements.
using Strided = std::pair<uintptr_t, Sizes>;
// Where the contiguous gradient of a broadcast operand lies: address, strides (0 where it is broadcast), elements.
using Summed = std::tuple<uintptr_t, Sizes, int64_t>;

void gamma_fwd(const std::string& dtype, Sizes sizes, double n_floor, int threads, Strided x, Strided n, Strided s,
               uintptr_t y) {
  Sizes y_strides = contiguous_strides(sizes);
  coalesce(sizes, {&x.second, &n.second, &s.second, &y_strides});
  aru::GammaForward f{};
  f.shape.dims = int(sizes.size());
  copy(sizes, f.shape.size);
  copy(x.second, f.shape.x);
  copy(n.second, f.shape.n);
  copy(s.second, f.shape.s);
  f.x = address<void>(x.first);
  f.n = address<void>(n.first);
  f.s = address<void>(s.first);
  f.y = address<void>(y);
  f.n_floor = n_floor;
  f.threads = threads;
  const aru::Scalar scalar = scalar_of(dtype);
  py::gil_scoped_release release;
  aru::kernels().gamma_fwd(scalar, f);
}

void gamma_bwd(const std::string& dtype, Sizes sizes, double n_floor, int threads, Strided dy, Strided x, Strided n,
               Strided s, uintptr_t dx, Summed dn, Summed ds) {
  auto& [dn_address, dn_strides, dn_numel] = dn;
  auto& [ds_address, ds_strides, ds_numel] = ds;
  Sizes dx_strides = contiguous_strides(sizes);
  coalesce(sizes, {&dy.second, &x.second, &n.second, &s.second, &dx_strides, &dn_strides, &ds_strides});
  aru::GammaBackward f{};
  f.shape.dims = int(sizes.size());
  copy(sizes, f.shape.size);
  copy(dy.second, f.shape.dy);
  copy(x.second, f.shape.x);
  copy(n.second, f.shape.n);
  copy(s.second, f.shape.s);
  f.dy = address<void>(dy.first);
  f.x = address<void>(x.first);
  f.n = address<void>(n.first);
  f.s = address<void>(s.first);
  f.dx = address<void>(dx);
  f.dn.out = address<void>(dn_address);
  f.dn.numel = dn_numel;
  copy(dn_strides, f.dn.stride);
  f.ds.out = address<void>(ds_address);
  f.ds.numel = ds_numel;
  copy(ds_strides, f.ds.stride);
  f.n_floor = n_floor;
  f.threads = threads;
  const aru::Scalar scalar = scalar_of(dtype);
  py::gil_scoped_release release;
  aru::kernels().gamma_bwd(scalar, f);
}

// (T, B, H, G, tile, segment)
aru::SequenceSizes sequence_sizes(const std::array<int64_t, 6>& z) { return {z[0], z[1], z[2], z[3], z[4], z[5]}; }

const Pointers<aru::AruForward>& fields(const aru::AruForward&) {
  using F = aru::AruForward;
  static const Pointers<F> all{ARU_POINTER(xp), ARU_POINTER(h0),     ARU_POINTER(g0),   ARU_POINTER(weight_hh),
                               ARU_CONTROLLER,  ARU_POINTER(h),      ARU_POINTER(a),    ARU_POINTER(n),
                               ARU_POINTER(s),  ARU_POINTER(g_last), ARU_POINTER(kept), ARU_POINTER(leak)};
  return all;
}

const Pointers<aru::AruBackward>& fields(const aru::AruBackward&) {
  using F = aru::AruBackward;
  static const Pointers<F> all{
      ARU_POINTER(h0),          ARU_POINTER(g0),       ARU_POINTER(weight_hh),   ARU_CONTROLLER,
      ARU_POINTER(h),           ARU_POINTER(a),        ARU_POINTER(n),           ARU_POINTER(s),
      ARU_POINTER(kept),        ARU_POINTER(d_h),      ARU_POINTER(d_a),         ARU_POINTER(d_n),
      ARU_POINTER(d_s),         ARU_POINTER(d_h_last), ARU_POINTER(d_g_last),    ARU_POINTER(d_xp),
      ARU_POINTER(d_h0),        ARU_POINTER(d_g0),     ARU_POINTER(d_weight_hh), ARU_POINTER(d_weight_ag),
      ARU_POINTER(d_weight_gg), ARU_POINTER(d_bias_g), ARU_POINTER(d_weight_gc), ARU_POINTER(d_bias_c),
      ARU_POINTER(leak),        ARU_POINTER(d_leak)};
  return all;
}

const Pointers<aru::GammaRnnForward>& fields(const aru::GammaRnnForward&) {
  using F = aru::GammaRnnForward;
  static const Pointers<F> all{ARU_POINTER(xp), ARU_POINTER(h0), ARU_POINTER(weight_hh), ARU_POINTER(n),
                               ARU_POINTER(s),  ARU_POINTER(h),  ARU_POINTER(a),         ARU_POINTER(leak)};
  return all;
}

const Pointers<aru::GammaRnnBackward>& fields(const aru::GammaRnnBackward&) {
  using F = aru::GammaRnnBackward;
  static const Pointers<F> all{
      ARU_POINTER(h0),       ARU_POINTER(weight_hh), ARU_POINTER(n),    ARU_POINTER(s),
      ARU_POINTER(h),        ARU_POINTER(a),         ARU_POINTER(d_h),  ARU_POINTER(d_a),
      ARU_POINTER(d_h_last), ARU_POINTER(d_xp),      ARU_POINTER(d_h0), ARU_POINTER(d_weight_hh),
      ARU_POINTER(d_n),      ARU_POINTER(d_s),       ARU_POINTER(leak), ARU_POINTER(d_leak)};
  return all;
}

// A binding whose keyword arguments are addresses for the struct's fields of these names; absent ones are null.
template <class Struct, void (*aru::Kernels::*kernel)(aru::Scalar, const Struct&)>
void run(const std::string& dtype, const std::array<int64_t, 6>& sizes, double n_floor, int threads,
         const py::kwargs& addresses) {
  Struct f{};
  f.sizes = sequence_sizes(sizes);
  f.n_floor = n_floor;
  f.threads = threads;
  fields(f).fill(f, addresses);
  const aru::Scalar scalar = scalar_of(dtype);
  py::gil_scoped_release release;
  (aru::kernels().*kernel)(scalar, f);
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
  m.def("gamma_fwd", &gamma_fwd, py::arg("dtype"), py::arg("sizes"), py::arg("n_floor"), py::arg("threads"),
        py::kw_only(), py::arg("x"), py::arg("n"), py::arg("s"), py::arg("y"));
  m.def("gamma_bwd", &gamma_bwd, py::arg("dtype"), py::arg("sizes"), py::arg("n_floor"), py::arg("threads"),
        py::kw_only(), py::arg("dy"), py::arg("x"), py::arg("n"), py::arg("s"), py::arg("dx"), py::arg("dn"),
        py::arg("ds"));
  m.def("strip", [](const std::string& dtype) { return aru::kernels().strip(scalar_of(dtype)); });
  m.def("kept_elements", [](const std::string& dtype, const std::array<int64_t, 6>& sizes) {
    return aru::kernels().kept_elements(scalar_of(dtype), sequence_sizes(sizes));
  });
  m.def("aru_fwd", &run<aru::AruForward, &aru::Kernels::aru_fwd>);
  m.def("aru_bwd", &run<aru::AruBackward, &aru::Kernels::aru_bwd>);
  m.def("gamma_rnn_fwd", &run<aru::GammaRnnForward, &aru::Kernels::gamma_rnn_fwd>);
  m.def("gamma_rnn_bwd", &run<aru::GammaRnnBackward, &aru::Kernels::gamma_rnn_bwd>);
  m.def("multiply_adds", [](const std::string& dtype, int64_t rounds, int threads) {
    const aru::Scalar scalar = scalar_of(dtype);
    py::gil_scoped_release release;
    return aru::kernels().multiply_adds(scalar, rounds, threads);
  });
  py::class_<StateBuffer>(m, "StateBuffer", py::buffer_protocol())
      .def(py::init<size_t>())
      .def_buffer(&StateBuffer::info);
  m.def("idle_bytes", &aru::idle_bytes);
  m.def("free_idle", &aru::free_idle);
}
