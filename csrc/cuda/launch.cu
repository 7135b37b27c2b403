#include "launch.h"

#include <cuda_runtime.h>

#include <cstdio>
#include <string>

namespace aru {
namespace cuda {
namespace {

// Makes a device the calling thread's current one for its lifetime.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    error = cudaGetDevice(&before_);
    if (error == cudaSuccess && before_ != device) error = cudaSetDevice(device);
  }
  ~OnDevice() { cudaSetDevice(before_); }
  cudaError_t error;

 private:
  int before_ = 0;
};

thread_local std::string last_text;

int outcome(cudaError_t error, const char* what, const char** text) {
  if (error == cudaSuccess) return 0;
  cudaGetLastError();  // clears the error, which the next call would otherwise report again
  last_text = std::string(what) + ": " + cudaGetErrorString(error);
  *text = last_text.c_str();
  return int(error);
}

const void* kernel(Form form, bool backward, int tiles) {
  switch (form) {
#if ARU_WARP_GROUPS  // the build has kernels for GPUs with groups of warps (setup.py)
    case Form::mixed: return backward ? nullptr : kernel_of<Form::mixed, false>(tiles);
#endif
    case Form::bf16: return backward ? kernel_of<Form::bf16, true>(tiles) : kernel_of<Form::bf16, false>(tiles);
    case Form::tf32: return backward ? kernel_of<Form::tf32, true>(tiles) : kernel_of<Form::tf32, false>(tiles);
    case Form::split: return backward ? kernel_of<Form::split, true>(tiles) : kernel_of<Form::split, false>(tiles);
    default: return nullptr;
  }
}

constexpr int portable_cluster = 8;  // a kernel has to opt in to larger clusters

// Allows the kernel all shared memory of the device, independent of the tiling: several threads may launch the kernel
// with different tilings at a time.
cudaError_t prepare(const void* f, int device, const Tiling& t) {
  int most = 0;
  cudaError_t error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  if (error == cudaSuccess && t.cluster && t.blocks > portable_cluster)
    error = cudaFuncSetAttribute(f, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  return error;
}

void configure(cudaLaunchConfig_t& c, cudaLaunchAttribute& attribute, const Tiling& t, int groups, int shared_bytes,
               uintptr_t stream) {
  c.gridDim = dim3(unsigned(groups * t.blocks));
  c.blockDim = dim3(unsigned(t.warps * 32));
  c.dynamicSmemBytes = size_t(shared_bytes);
  c.stream = reinterpret_cast<cudaStream_t>(stream);
  if (t.cluster) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = unsigned(t.blocks);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  } else {
    attribute.id = cudaLaunchAttributeCooperative;  // fails unless all blocks run at the same time
    attribute.val.cooperative = 1;
  }
  c.attrs = &attribute;
  c.numAttrs = 1;
}

template <class Arguments>
int launch(int device, Form form, bool backward, const Arguments& p, uintptr_t stream, const char** text) {
  const OnDevice on(device);
  if (on.error != cudaSuccess) return outcome(on.error, "choosing the device", text);
  const void* f = kernel(form, backward, column_tiles(backward, p.sizes.G));
  if (f == nullptr) return outcome(cudaErrorInvalidDeviceFunction, "choosing the kernel", text);
  cudaError_t error = prepare(f, device, p.tiling);
  if (error != cudaSuccess) return outcome(error, "preparing the kernel", text);
  if (!p.tiling.cluster) {  // clears the counters; the kernel writes the rest before it reads it
    error = cudaMemsetAsync(p.exchange, 0, size_t(exchange_bytes(p.shape, p.tiling, form)),
                            reinterpret_cast<cudaStream_t>(stream));
    if (error != cudaSuccess) return outcome(error, "clearing the exchange", text);
  }
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute = {};
  configure(config, attribute, p.tiling, p.tiling.groups, p.shape.total, stream);
  void* arguments[] = {const_cast<Arguments*>(&p)};
  return outcome(cudaLaunchKernelExC(&config, f, arguments), "launching the kernel", text);
}

}  // namespace

extern "C" {

int aru_cuda_device(int device, Device* result, const char** text) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess || device >= count) {
    cudaGetLastError();
    *text = "no CUDA device";
    return found == cudaSuccess ? int(cudaErrorNoDevice) : int(found);
  }
  const OnDevice on(device);
  if (on.error != cudaSuccess) return outcome(on.error, "choosing the device", text);
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return outcome(error, "asking the device", text);
  std::snprintf(result->name, sizeof(result->name), "%s", properties.name);
  result->multiprocessors = properties.multiProcessorCount;
  result->shared_bytes = int(properties.sharedMemPerBlockOptin);
  result->clusters = 0;
  result->warp_groups = ARU_WARP_GROUPS && properties.major == 9;
  const void* small = kernel(Form::bf16, false, 0);
  cudaFuncAttributes attributes;
  error = cudaFuncGetAttributes(&attributes, small);
  if (error != cudaSuccess) {
    cudaGetLastError();
    last_text = std::string("the kernels were compiled for sm_") + ARU_CUDA_ARCHITECTURES + ", and the device " +
                properties.name + " is sm_" + std::to_string(properties.major) + std::to_string(properties.minor) +
                "; set TORCH_CUDA_ARCH_LIST and run `pip install -e .`";
    *text = last_text.c_str();
    return int(error);
  }
  if (properties.major >= 9) {
    // The largest cluster of a small kernel: 16 blocks if the device allows them, otherwise 8.
    result->clusters = portable_cluster;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    const Tiling large{1, 2 * portable_cluster, 4, 1, 1, 1};
    int clusters = 0;
    if (prepare(small, device, large) == cudaSuccess) {
      configure(config, attribute, large, 1, 1024, 0);
      if (cudaOccupancyMaxActiveClusters(&clusters, small, &config) == cudaSuccess && clusters > 0)
        result->clusters = 2 * portable_cluster;
    }
    cudaGetLastError();
  }
  return 0;
}

int aru_cuda_most_groups(int device, Form form, int backward, int tiles, const Tiling* tiling, int shared_bytes,
                         int* result, const char** text) {
  const OnDevice on(device);
  if (on.error != cudaSuccess) return outcome(on.error, "choosing the device", text);
  const void* f = kernel(form, backward != 0, tiles);
  if (f == nullptr) return outcome(cudaErrorInvalidDeviceFunction, "choosing the kernel", text);
  cudaError_t error = prepare(f, device, *tiling);
  if (error != cudaSuccess) return outcome(error, "preparing the kernel", text);
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute = {};
  configure(config, attribute, *tiling, 1, shared_bytes, 0);
  return outcome(cudaOccupancyMaxActiveClusters(result, f, &config), "asking for the clusters that fit", text);
}

int aru_cuda_forward(int device, Form form, const Forward* arguments, uintptr_t stream, const char** text) {
  return launch(device, form, false, *arguments, stream, text);
}
int aru_cuda_backward(int device, Form form, const Backward* arguments, uintptr_t stream, const char** text) {
  return launch(device, form, true, *arguments, stream, text);
}

}  // extern "C"

}  // namespace cuda
}  // namespace aru
