// pybind11 for the CUDA kernels, a module of its own so that the CPU's does not depend on CUDA: sizes, addresses and a
// stream in, no tensor type of any library.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "addresses.h"
#include "cuda/plan.h"

#ifndef ARU_CUDA_MODULE
#define ARU_CUDA_MODULE _cuda
#endif

namespace py = pybind11;
using namespace aru::cuda;
using aru::Pointers;

namespace {

Sizes sizes_of(const std::array<int, 4>& z) { return {z[0], z[1], z[2], z[3]}; }
using TilingNumbers = std::array<int, 7>;
Tiling tiling_of(const TilingNumbers& t) { return {t[0], t[1], t[2], t[3], t[4], t[5], t[6]}; }

// Calls one of launch.h's functions; its text where it fails.
template <class Call> void check(const Call& call) {
  const char* text = "";
  if (const int error = call(&text))
    throw std::runtime_error(std::string(text) + " (error " + std::to_string(error) + ")");
}

Device device_of(int index) {
  Device device{};
  check([&](const char** text) { return aru_cuda_device(index, &device, text); });
  return device;
}

std::string device_problem(int index) {
  Device device{};
  const char* text = "";
  return aru_cuda_device(index, &device, &text) ? text : "";
}

Shape shape(const Sizes& z, const Tiling& t, Form form, bool backward) {
  return shape_of(t, form, column_tiles(backward, z.G), backward);
}

int most_groups(int index, Form form, bool backward, const Sizes& z, const Tiling& t) {
  int groups = 0;
  check([&](const char** text) {
    const int bytes = shape(z, t, form, backward).total;
    return aru_cuda_most_groups(index, form, backward, column_tiles(backward, z.G), &t, bytes, &groups, text);
  });
  return groups;
}

TilingNumbers plan_numbers(int index, int form, bool backward, const std::array<int, 4>& sizes) {
  const Sizes z = sizes_of(sizes);
  const Tiling t = plan(device_of(index), z, Form(form), backward, [&](const Tiling& candidate) {
    return most_groups(index, Form(form), backward, z, candidate);
  });
  return {t.cluster, t.blocks, t.slice, t.batch, t.warps, t.groups, t.together};
}

const Pointers<Forward>& fields(const Forward&) {
  using F = Forward;
  static const Pointers<F> all{ARU_POINTER(xp),   ARU_POINTER(h0),      ARU_POINTER(g0),      ARU_POINTER(weight_hh),
                               ARU_CONTROLLER,    ARU_POINTER(n_given), ARU_POINTER(s_given), ARU_POINTER(h),
                               ARU_POINTER(a),    ARU_POINTER(n),       ARU_POINTER(s),       ARU_POINTER(g_last),
                               ARU_POINTER(kept), ARU_POINTER(exchange)};
  return all;
}

const Pointers<Backward>& fields(const Backward&) {
  using F = Backward;
  static const Pointers<F> all{
      ARU_POINTER(weight_hh), ARU_CONTROLLER,    ARU_POINTER(n_given), ARU_POINTER(s_given),    ARU_POINTER(a),
      ARU_POINTER(n),         ARU_POINTER(s),    ARU_POINTER(kept),    ARU_POINTER(recomputed), ARU_POINTER(d_h),
      ARU_POINTER(d_a),       ARU_POINTER(d_n),  ARU_POINTER(d_s),     ARU_POINTER(d_h_last),   ARU_POINTER(d_g_last),
      ARU_POINTER(d_xp),      ARU_POINTER(d_h0), ARU_POINTER(d_g0),    ARU_POINTER(sums),       ARU_POINTER(exchange)};
  return all;
}

template <class Struct>
Struct common(Form form, bool backward, const std::array<int, 4>& sizes, const TilingNumbers& tiling, double n_floor,
              int segment) {
  Struct p{};
  p.sizes = sizes_of(sizes);
  p.tiling = tiling_of(tiling);
  p.shape = shape(p.sizes, p.tiling, form, backward);
  const int tiles = column_tiles(backward, p.sizes.G);
  const int fewest = std::max(p.shape.pairs, backward && shares_sums(form, tiles) ? sharing_warps(tiles) : 1);
  if (p.tiling.warps < fewest)
    throw std::invalid_argument("warps: got " + std::to_string(p.tiling.warps) + ", expected at least " +
                                std::to_string(fewest) + " for this tiling.");
  p.n_floor = float(n_floor);
  p.slot_bytes = kept_slot_bytes(p.sizes, form);
  p.segment = segment;
  return p;
}

// Keyword arguments are addresses for the struct's fields of these names; absent ones are null.
void forward(int device, uintptr_t stream, int form, const std::array<int, 4>& sizes, const TilingNumbers& tiling,
             double n_floor, int segment, const py::kwargs& addresses) {
  Forward p = common<Forward>(Form(form), false, sizes, tiling, n_floor, segment);
  fields(p).fill(p, addresses);
  if (p.kept && !keeps_state(Form(form)))
    throw std::invalid_argument("kept: got an address, expected none, because this form's kernels keep no state.");
  const py::gil_scoped_release release;
  check([&](const char** text) { return aru_cuda_forward(device, Form(form), &p, stream, text); });
}

void backward(int device, uintptr_t stream, int form, const std::array<int, 4>& sizes, const TilingNumbers& tiling,
              double n_floor, int segment, const py::kwargs& addresses) {
  Backward p = common<Backward>(Form(form), true, sizes, tiling, n_floor, segment);
  fields(p).fill(p, addresses);
  const py::gil_scoped_release release;
  check([&](const char** text) { return aru_cuda_backward(device, Form(form), &p, stream, text); });
}

}  // namespace

PYBIND11_MODULE(ARU_CUDA_MODULE, m) {
  m.doc() = "CUDA kernels of aru_kernels; aru_kernels.cuda is their Python face.";
  m.attr("version") = ARU_VERSION;
  m.attr("architectures") = ARU_CUDA_ARCHITECTURES;
  m.attr("largest_controller") = largest_controller;
  m.def("device_problem", &device_problem, "Why the kernels cannot run on a device; empty where they can.");
  m.def("plan", &plan_numbers,
        "(cluster, blocks, slice, batch, warps, groups, together); ValueError where nothing fits.");
  m.def(
      "most_groups",
      [](int index, int form, bool backward, const std::array<int, 4>& sizes, const TilingNumbers& tiling) {
        return most_groups(index, Form(form), backward, sizes_of(sizes), tiling_of(tiling));
      },
      "Groups of this tiling that the device holds at the same time.");
  m.def("kept_slot_bytes",
        [](int form, const std::array<int, 4>& sizes) { return kept_slot_bytes(sizes_of(sizes), Form(form)); });
  m.def("shared_bytes", [](int form, bool backward, const std::array<int, 4>& sizes, const TilingNumbers& tiling) {
    return shape(sizes_of(sizes), tiling_of(tiling), Form(form), backward).total;
  });
  m.def("exchange_bytes", [](int form, bool backward, const std::array<int, 4>& sizes, const TilingNumbers& tiling) {
    const Tiling t = tiling_of(tiling);
    return exchange_bytes(shape(sizes_of(sizes), t, Form(form), backward), t, Form(form));
  });
  m.def("unit_of", &unit_of,
        "The unit of a column of the sums, of (column, G); there is none where it is not below G.");
  m.def("sums_shape", [](int form, const std::array<int, 4>& sizes, const TilingNumbers& tiling) {
    const SumsShape s = sums_shape(tiling_of(tiling), Form(form), column_tiles(true, sizes[3]));
    return std::array<int, 3>{s.parts, s.rows, s.columns};
  });
  m.def("forward", &forward);
  m.def("backward", &backward);
}
