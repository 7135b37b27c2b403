// The kernels of one form of products (-DARU_FORM) for the host.  -DARU_TILES has bit j for the j-th number of column
// tiles: few of them compile faster.
#include <stdexcept>

#include "cuda/backward.cuh"
#include "cuda/forward.cuh"

namespace aru {
namespace cuda {

template <Form form> void emulated_forward(int tiles, const Forward& p);
template <Form form> void emulated_backward(int tiles, const Backward& p);

template <> void emulated_forward<Form::ARU_FORM>(int tiles, const Forward& p) {
  switch (tiles) {
    case 0: return sequence_forward<KernelTraits<Form::ARU_FORM, 0>>(p);
#if ARU_TILES & 1
    case forward_tiles[0]: return sequence_forward<KernelTraits<Form::ARU_FORM, forward_tiles[0]>>(p);
#endif
#if ARU_TILES & 2
    case forward_tiles[1]: return sequence_forward<KernelTraits<Form::ARU_FORM, forward_tiles[1]>>(p);
#endif
#if ARU_TILES & 4
    case forward_tiles[2]: return sequence_forward<KernelTraits<Form::ARU_FORM, forward_tiles[2]>>(p);
#endif
#if ARU_TILES & 8
    case forward_tiles[3]: return sequence_forward<KernelTraits<Form::ARU_FORM, forward_tiles[3]>>(p);
#endif
    default: emulation::machine().fail("no kernel for so many column tiles");
  }
}

template <> void emulated_backward<Form::ARU_FORM>(int tiles, const Backward& p) {
  switch (tiles) {
    case 0: return sequence_backward<KernelTraits<Form::ARU_FORM, 0>>(p);
#if ARU_TILES & 1
    case backward_tiles[0]: return sequence_backward<KernelTraits<Form::ARU_FORM, backward_tiles[0]>>(p);
#endif
#if ARU_TILES & 2
    case backward_tiles[1]: return sequence_backward<KernelTraits<Form::ARU_FORM, backward_tiles[1]>>(p);
#endif
#if ARU_TILES & 4
    case backward_tiles[2]: return sequence_backward<KernelTraits<Form::ARU_FORM, backward_tiles[2]>>(p);
#endif
#if ARU_TILES & 8
    case backward_tiles[3]: return sequence_backward<KernelTraits<Form::ARU_FORM, backward_tiles[3]>>(p);
#endif
    default: emulation::machine().fail("no kernel for so many column tiles");
  }
}

}  // namespace cuda
}  // namespace aru
