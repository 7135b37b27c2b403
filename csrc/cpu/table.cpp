// Compiled once per instruction set: the kernels that its build provides.
#include "kernels.h"

#define ARU_STRING_(x) #x
#define ARU_STRING(x) ARU_STRING_(x)

namespace aru {
namespace ARU_ISA {

void gamma_fwd(Scalar, const GammaForward&);
void gamma_bwd(Scalar, const GammaBackward&);

extern const Kernels table;
const Kernels table = {ARU_STRING(ARU_ISA), gamma_fwd, gamma_bwd};

}  // namespace ARU_ISA
}  // namespace aru
