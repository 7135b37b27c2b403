// csrc/cuda/launch.cu on the host: the same kernels, with a fiber for each thread (emulated_machine.h).  With
// csrc/bindings_cuda.cpp it makes a module that replaces aru_kernels._cuda in tests.
#define ARU_EMULATION_MAIN
#include <string>

#include "cuda/launch.h"
#include "emulated_machine.h"

namespace aru {
namespace cuda {

// Defined in emulated_kernels.cpp; weak, because a module may have a single form.
template <Form form> __attribute__((weak)) void emulated_forward(int tiles, const Forward& p);
template <Form form> __attribute__((weak)) void emulated_backward(int tiles, const Backward& p);

namespace {

emulation::Schedule schedule;
Device emulated{"emulated device", 132, 232448, 16, true};
thread_local std::string last_text;

template <Form form> void run(int tiles, const Forward& p) { emulated_forward<form>(tiles, p); }
template <Form form> void run(int tiles, const Backward& p) {
  if constexpr (keeps_state(form))
    emulated_backward<form>(tiles, p);
  else
    emulation::machine().fail("no kernel for a backward pass of this form");
}

template <class Arguments> int launch(Form form, bool backward, const Arguments& p, const char** text) {
  const int tiles = column_tiles(backward, p.sizes.G);
  if (!p.tiling.cluster) std::memset(p.exchange, 0, size_t(exchange_bytes(p.shape, p.tiling, form)));
  try {
    emulation::launch(p.tiling.groups, p.tiling.blocks, p.tiling.warps * 32, p.shape.total, schedule, [&] {
      switch (form) {
        case Form::bf16: return run<Form::bf16>(tiles, p);
        case Form::tf32: return run<Form::tf32>(tiles, p);
        case Form::split: return run<Form::split>(tiles, p);
        case Form::mixed: return run<Form::mixed>(tiles, p);
        case Form::fp16: emulation::machine().fail("no kernel of this form");
      }
    });
  } catch (const std::exception& error) {
    last_text = error.what();
    *text = last_text.c_str();
    return 1;
  }
  return 0;
}

}  // namespace

extern "C" {

int aru_cuda_device(int, Device* result, const char**) {
  *result = emulated;
  return 0;
}
int aru_cuda_most_groups(int, Form, int, int, const Tiling* tiling, int, int* result, const char**) {
  *result = emulated.multiprocessors / tiling->blocks;
  return 0;
}
int aru_cuda_forward(int, Form form, const Forward* arguments, uintptr_t, const char** text) {
  return launch(form, false, *arguments, text);
}
int aru_cuda_backward(int, Form form, const Backward* arguments, uintptr_t, const char** text) {
  return launch(form, true, *arguments, text);
}

// For the tests, through ctypes.
__attribute__((visibility("default"))) void aru_emulation_schedule(int order, int starve, int deferred, unsigned seed) {
  schedule = {emulation::Schedule::Order(order), starve != 0, deferred != 0, seed};
}
__attribute__((visibility("default"))) void aru_emulation_device(int multiprocessors, int shared_bytes, int clusters) {
  emulated.multiprocessors = multiprocessors;
  emulated.shared_bytes = shared_bytes;
  emulated.clusters = clusters;
  emulated.warp_groups = clusters > 0;
}

}  // extern "C"

}  // namespace cuda
}  // namespace aru
