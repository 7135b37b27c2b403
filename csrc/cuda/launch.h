// The kernels as C functions of addresses, sizes and a stream.  launch.cu is the implementation for GPUs;
// tests/csrc/emulated_launch.cpp runs the same kernels on the host.
//
// A function returns 0, or an error code and a text, which is valid until the calling thread's next call.
#pragma once

#include <cstdint>

#include "arguments.h"

namespace aru {
namespace cuda {

// The resources that a tiling has to fit.
struct Device {
  char name[256];
  int multiprocessors;
  int shared_bytes;  // most shared memory of a block
  int clusters;      // most blocks of a cluster; 0 if the device has no clusters
  bool warp_groups;  // whether groups of warps make products (prim.cuh), and kernels of `mixed` exist
};

// The address of the compiled kernel for this number of column tiles; null if there is none.
template <Form form, bool backward> const void* kernel_of(int tiles);
template <> const void* kernel_of<Form::bf16, false>(int);
template <> const void* kernel_of<Form::tf32, false>(int);
template <> const void* kernel_of<Form::split, false>(int);
template <> const void* kernel_of<Form::mixed, false>(int);
template <> const void* kernel_of<Form::bf16, true>(int);
template <> const void* kernel_of<Form::tf32, true>(int);
template <> const void* kernel_of<Form::split, true>(int);

extern "C" {
// Describes the device; an error if it does not exist or the kernels were not compiled for it.
int aru_cuda_device(int device, Device* result, const char** text);
// The number of groups that the device can run at the same time.
int aru_cuda_most_groups(int device, Form form, int backward, int tiles, const Tiling* tiling, int shared_bytes,
                         int* result, const char** text);
int aru_cuda_forward(int device, Form form, const Forward* arguments, uintptr_t stream, const char** text);
int aru_cuda_backward(int device, Form form, const Backward* arguments, uintptr_t stream, const char** text);
}

}  // namespace cuda
}  // namespace aru
