// The kernels as C functions of addresses, sizes and a stream.  launch.cu is the implementation for GPUs;
// tests/csrc/emulated_launch.cpp runs the same kernels on the host.
//
// A function returns 0, or an error code and a text that lives as long as the calling thread makes no other call.
#pragma once

#include <cstdint>

#include "sequence.h"

namespace aru {
namespace cuda {

// What a tiling must fit.
struct Device {
  char name[256];
  int multiprocessors;
  int shared_bytes;  // that a block may have
  int clusters;      // the largest number of blocks in a cluster; 0: none
  bool warp_groups;  // whether groups of warps make products (prim.cuh)
};

// The address of a compiled kernel for so many column tiles, or null.
template <Form form, bool backward> const void* kernel_of(int tiles);
template <> const void* kernel_of<Form::bf16, false>(int);
template <> const void* kernel_of<Form::tf32, false>(int);
template <> const void* kernel_of<Form::split, false>(int);
template <> const void* kernel_of<Form::bf16, true>(int);
template <> const void* kernel_of<Form::tf32, true>(int);
template <> const void* kernel_of<Form::split, true>(int);

extern "C" {
// Whether the device exists and the kernels were compiled for it, and what it has.
int aru_cuda_device(int device, Device* result, const char** text);
// Groups that can be on the device at the same time.
int aru_cuda_most_groups(int device, Form form, int backward, int tiles, const Tiling* tiling, int shared_bytes,
                         int* result, const char** text);
int aru_cuda_forward(int device, Form form, const Forward* arguments, uintptr_t stream, const char** text);
int aru_cuda_backward(int device, Form form, const Backward* arguments, uintptr_t stream, const char** text);
}

}  // namespace cuda
}  // namespace aru
