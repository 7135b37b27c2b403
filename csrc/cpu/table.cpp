// Compiled once per instruction set: the kernels that its build provides.
#include "kernels.h"

#define ARU_STRING_(x) #x
#define ARU_STRING(x) ARU_STRING_(x)

namespace aru {
namespace ARU_ISA {

void gamma_fwd(Scalar, const GammaForward&);
void gamma_bwd(Scalar, const GammaBackward&);
int64_t strip_rows(Scalar);
int64_t kept_elements(Scalar, const SequenceSizes&);
void aru_fwd(Scalar, const AruForward&);
void aru_bwd(Scalar, const AruBackward&);
void gamma_rnn_fwd(Scalar, const GammaRnnForward&);
void gamma_rnn_bwd(Scalar, const GammaRnnBackward&);
double multiply_adds(Scalar, int64_t rounds, int threads);

extern const Kernels table;
#ifdef __AVX512BF16__
constexpr bool bfloat16_products = true;
#else
constexpr bool bfloat16_products = false;
#endif
const Kernels table = {ARU_STRING(ARU_ISA), bfloat16_products, gamma_fwd,    gamma_bwd,
                       strip_rows,          kept_elements,     aru_fwd,      aru_bwd,
                       gamma_rnn_fwd,       gamma_rnn_bwd,     multiply_adds};

}  // namespace ARU_ISA
}  // namespace aru
