// The kernels of one form of products (-DARU_FORM) for the host.  -DARU_TILES has bit j for the j-th number of column
// tiles, -DARU_PASSES bit 0 for the forward pass and bit 1 for the backward pass, and -DARU_STATIC=0 leaves out the
// kernels of the static network: few kernels compile faster.
#include <stdexcept>

#ifndef ARU_PASSES
#define ARU_PASSES 3
#endif
#ifndef ARU_STATIC
#define ARU_STATIC 1
#endif

#if ARU_PASSES & 1
#include "cuda/forward.cuh"
#endif
#if ARU_PASSES & 2
#include "cuda/backward.cuh"
#endif

namespace aru {
namespace cuda {

#if ARU_PASSES & 1
template <Form form> void emulated_forward(int tiles, const Forward& p);

template <> void emulated_forward<Form::ARU_FORM>(int tiles, const Forward& p) {
  switch (tiles) {
#if ARU_STATIC
    case 0: return sequence_forward<KernelTraits<Form::ARU_FORM, 0>>(p);
#endif
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
#endif

#if ARU_PASSES & 2
template <Form form> void emulated_backward(int tiles, const Backward& p);

template <> void emulated_backward<Form::ARU_FORM>(int tiles, const Backward& p) {
  switch (tiles) {
#if ARU_STATIC
    case 0: return sequence_backward<KernelTraits<Form::ARU_FORM, 0>>(p);
#endif
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
#endif

}  // namespace cuda
}  // namespace aru
