// The element-wise functions of the kernels: tanh, and what gamma is made of, in the accuracy of each form of products.
#pragma once

#include <type_traits>

#define ARU_ISA cuda
#include "../aru_math.h"
#include "forms.h"
#include "prim.cuh"

namespace aru {
namespace cuda {

// Whether the special function unit is accurate enough.  Its tanh has 11 bits, as many as a TF32 number, the longest
// operand that it becomes; its other functions have 22 bits.
ARU_ANYWHERE constexpr bool special_functions(Form form) { return form != Form::split; }

template <Form form> ARU_DEVICE float controller_tanh(float x) {
  if constexpr (special_functions(form)) return tanh_approximate(x);
  return aru::cuda::tanh<float>(x);
}

// The functions that gamma is made of (Accurate in aru_math.h), by the special function unit.
struct SpecialFunctions {
  ARU_DEVICE float exp_of_negative(float y) { return exp2_approximate(y * constants<float>::log2_e); }
  ARU_DEVICE float log1p_of_unit(float e) { return log2_approximate(1.f + e) * 0.6931471805599453f; }
  ARU_DEVICE float reciprocal(float x) { return reciprocal_approximate(x); }
  ARU_DEVICE float quotient(float x, float y) { return x * reciprocal_approximate(y); }
};
template <Form form>
using GammaFunctions = std::conditional_t<special_functions(form), SpecialFunctions, Accurate<float>>;

// x, limited to the range of the form: float16 ends at 65504, and infinity times 0 would be NaN.
template <Form form> ARU_DEVICE float within(float x) {
  if constexpr (form != Form::fp16) return x;
  constexpr float most = 65504;
  return x > most ? most : x < -most ? -most : x;
}

}  // namespace cuda
}  // namespace aru
