// The kernels of one number of parts (-DARU_PARTS=1, 2 or 3; see split.cuh) in one direction (-DARU_BACKWARD=0 or 1), so
// that they compile side by side.
#include <cuda_runtime.h>

#include "launch.h"

#if ARU_BACKWARD
#include "backward.cuh"
#else
#include "forward.cuh"
#endif

namespace aru {
namespace cuda {

#if ARU_BACKWARD
template <int parts, int tiles>
__global__ void __launch_bounds__(most_warps(parts, true) * 32, 1) aru_backward(const __grid_constant__ Backward p) {
  sequence_backward<parts, tiles>(p);
}
template <> const void* kernel_of<ARU_PARTS, true>(int tiles) {
  switch (tiles) {
    case 0: return reinterpret_cast<const void*>(&aru_backward<ARU_PARTS, 0>);
    case backward_tiles[0]: return reinterpret_cast<const void*>(&aru_backward<ARU_PARTS, backward_tiles[0]>);
    case backward_tiles[1]: return reinterpret_cast<const void*>(&aru_backward<ARU_PARTS, backward_tiles[1]>);
    case backward_tiles[2]: return reinterpret_cast<const void*>(&aru_backward<ARU_PARTS, backward_tiles[2]>);
    case backward_tiles[3]: return reinterpret_cast<const void*>(&aru_backward<ARU_PARTS, backward_tiles[3]>);
    default: return nullptr;
  }
}
#else
template <int parts, int tiles>
__global__ void __launch_bounds__(most_warps(parts, false) * 32, 1) aru_forward(const __grid_constant__ Forward p) {
  sequence_forward<parts, tiles>(p);
}
template <> const void* kernel_of<ARU_PARTS, false>(int tiles) {
  switch (tiles) {
    case 0: return reinterpret_cast<const void*>(&aru_forward<ARU_PARTS, 0>);
    case forward_tiles[0]: return reinterpret_cast<const void*>(&aru_forward<ARU_PARTS, forward_tiles[0]>);
    case forward_tiles[1]: return reinterpret_cast<const void*>(&aru_forward<ARU_PARTS, forward_tiles[1]>);
    case forward_tiles[2]: return reinterpret_cast<const void*>(&aru_forward<ARU_PARTS, forward_tiles[2]>);
    case forward_tiles[3]: return reinterpret_cast<const void*>(&aru_forward<ARU_PARTS, forward_tiles[3]>);
    default: return nullptr;
  }
}
#endif

}  // namespace cuda
}  // namespace aru
