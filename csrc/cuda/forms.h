// The forms of a matrix product: how float32 numbers are passed to the matrix unit (products.cuh).
#pragma once

#ifdef __CUDACC__
#define ARU_ANYWHERE __host__ __device__
#else
#define ARU_ANYWHERE
#endif

namespace aru {
namespace cuda {

// Kernels are compiled for the first four: `mixed` for the forward pass only, on GPUs with groups of warps, with tf32
// for the recurrent product and fp16 for the controller's.  fp16 serves products with the controller's state only.
enum class Form { bf16, tf32, split, mixed, fp16 };

// The form of the recurrent product and of the exchanged vectors.
ARU_ANYWHERE constexpr Form recurrent_form(Form form) { return form == Form::mixed ? Form::tf32 : form; }

// 32-bit words of an operand for a pair of numbers.
ARU_ANYWHERE constexpr int words_of(Form form) {
  return form == Form::split ? 3 : recurrent_form(form) == Form::tf32 ? 2 : 1;
}

// Matrix instructions for 16 k.  A TF32 instruction takes 8 k in the time in which a bfloat16 instruction takes 16.
ARU_ANYWHERE constexpr int instructions_of(Form form) {
  return form == Form::split ? 6 : recurrent_form(form) == Form::tf32 ? 2 : 1;
}

// The form of the forward products with the controller's state.  The state lies in [-1, 1], where float16 has three
// bits more than bfloat16, and the operand is also the state that the forward pass keeps.
ARU_ANYWHERE constexpr Form state_form(Form form) {
  return form == Form::bf16 || form == Form::mixed ? Form::fp16 : form;
}

// Whether a power of two scales W_gg and W_gc, so that float16 takes all of them and leaves their largest weights 11
// bits.  Without it, weights beyond 65504 are cut, and those below 6e-5 lose bits.
ARU_ANYWHERE constexpr bool scales_weights(Form form) { return form == Form::mixed; }

// Whether the forward kernels keep state for a backward pass.
ARU_ANYWHERE constexpr bool keeps_state(Form form) { return form != Form::mixed; }

// Whether the state is kept in float16; otherwise it is kept in float32.
ARU_ANYWHERE constexpr bool keeps_half(Form form) { return state_form(form) == Form::fp16; }

}  // namespace cuda
}  // namespace aru
