// The kernels of one form of products (-DARU_FORM=bf16, tf32, split or mixed) in one direction (-DARU_BACKWARD=0 or 1),
// to be compiled in parallel.  mixed has only the forward pass of the adaptive network, and only on GPUs with groups of
// warps.
#include <cuda_runtime.h>

#include "launch.h"

#if ARU_BACKWARD
#include "backward.cuh"
#else
#include "forward.cuh"
#endif

namespace aru {
namespace cuda {

constexpr Form form_here = Form::ARU_FORM;

#if ARU_BACKWARD
template <Form form, int tiles>
__global__ void __launch_bounds__(most_warps(form) * 32, 1) aru_backward(const __grid_constant__ Backward p) {
  sequence_backward<KernelTraits<form, tiles>>(p);
}
template <> const void* kernel_of<form_here, true>(int tiles) {
  switch (tiles) {
    case 0: return reinterpret_cast<const void*>(&aru_backward<form_here, 0>);
    case backward_tiles[0]: return reinterpret_cast<const void*>(&aru_backward<form_here, backward_tiles[0]>);
    case backward_tiles[1]: return reinterpret_cast<const void*>(&aru_backward<form_here, backward_tiles[1]>);
    case backward_tiles[2]: return reinterpret_cast<const void*>(&aru_backward<form_here, backward_tiles[2]>);
    case backward_tiles[3]: return reinterpret_cast<const void*>(&aru_backward<form_here, backward_tiles[3]>);
    default: return nullptr;
  }
}
#else
template <Form form, int tiles>
__global__ void __launch_bounds__(most_warps(form) * 32, 1) aru_forward(const __grid_constant__ Forward p) {
  sequence_forward<KernelTraits<form, tiles>>(p);
}
template <> const void* kernel_of<form_here, false>(int tiles) {
  if constexpr (form_here != Form::mixed)
    if (tiles == 0) return reinterpret_cast<const void*>(&aru_forward<form_here, 0>);
  switch (tiles) {
    case forward_tiles[0]: return reinterpret_cast<const void*>(&aru_forward<form_here, forward_tiles[0]>);
    case forward_tiles[1]: return reinterpret_cast<const void*>(&aru_forward<form_here, forward_tiles[1]>);
    case forward_tiles[2]: return reinterpret_cast<const void*>(&aru_forward<form_here, forward_tiles[2]>);
    case forward_tiles[3]: return reinterpret_cast<const void*>(&aru_forward<form_here, forward_tiles[3]>);
    default: return nullptr;
  }
}
#endif

}  // namespace cuda
}  // namespace aru
