// The instructions of the GPU that the kernels use; the kernels include this header and no header of CUDA.
//
// The build chooses the implementation.  nvcc takes the prim_*.cuh beside this file.  ARU_PRIMITIVES names another one,
// as the emulation on the host does (tests/csrc/prim_emulated.h).
#pragma once

#if defined(ARU_PRIMITIVES)
#include ARU_PRIMITIVES
#elif defined(__CUDACC__)
#include "prim_groups.cuh"
#include "prim_memory.cuh"
#include "prim_products.cuh"
#include "prim_threads.cuh"
#else
#error "compile the kernels with nvcc, or name an implementation of the primitives by ARU_PRIMITIVES"
#endif
