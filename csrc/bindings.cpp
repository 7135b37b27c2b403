// pybind11: sizes, strides (in elements) and addresses in, no tensor type of any library.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace py = pybind11;

namespace {

using Sizes = std::vector<int64_t>;

template <class T> T* address(uintptr_t p) { return reinterpret_cast<T*>(p); }

aru::Scalar scalar_of(const std::string& dtype) {
  if (dtype == "float32") return aru::Scalar::float32;
  if (dtype == "float64") return aru::Scalar::float64;
  throw std::invalid_argument("dtype is '" + dtype + "', expected float32 or float64.");
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
  m.def("usable_isas", &aru::usable_isas);
  m.def("select_isa", &aru::select_isa);
  m.def("gamma_fwd", &gamma_fwd);
  m.def("gamma_bwd", &gamma_bwd);
}
