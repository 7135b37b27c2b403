// The forms of a matrix product: how float32 numbers are passed to the matrix unit (products.cuh).
#pragma once

#ifdef __CUDACC__
#define ARU_ANYWHERE __host__ __device__
#else
#define ARU_ANYWHERE
#endif

namespace aru {
namespace cuda {

// Kernels are compiled for the first three; fp16 serves products with the controller's state only.
enum class Form { bf16, tf32, split, fp16 };

// 32-bit words of an operand for a pair of numbers.
ARU_ANYWHERE constexpr int words_of(Form form) { return form == Form::split ? 3 : form == Form::tf32 ? 2 : 1; }

// Matrix instructions for 16 k.  A TF32 instruction takes 8 k in the time in which a bfloat16 instruction takes 16.
ARU_ANYWHERE constexpr int instructions_of(Form form) { return form == Form::split ? 6 : form == Form::tf32 ? 2 : 1; }

// The form of the forward products with the controller's state.  The state lies in [-1, 1], where float16 has three
// bits more than bfloat16, and the operand is also the state that the forward pass keeps.
ARU_ANYWHERE constexpr Form state_form(Form form) { return form == Form::bf16 ? Form::fp16 : form; }

// Whether the state is kept in float16; otherwise it is kept in float32.
ARU_ANYWHERE constexpr bool keeps_half(Form form) { return state_form(form) == Form::fp16; }

}  // namespace cuda
}  // namespace aru
