// What a step of a persistent kernel pays for its blocks to meet, without any work between: the cluster barrier, the
// exchange of a vector by asynchronous stores and an mbarrier, and the same through device memory.
//
// benchmarks/cuda_micro.py compiles and runs it.  One line of JSON per measurement.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

#include "cuda/controller.cuh"
#include "cuda/exchange.cuh"

using namespace aru::cuda;

namespace {

__global__ void cluster_barriers(int steps) {
  for (int i = 0; i < steps; ++i) cluster_sync();
}

// As in the forward kernel: every lane sends its element, the block waits for all blocks' elements.
__global__ void exchanges(const __grid_constant__ Forward p, int steps) {
  const auto exchange = Exchange<Form::bf16>::create(p, shared_memory());
  exchange.open();
  const Row own = Row::of(thread_index(), p.sizes, p.tiling, p.shape.rows, 0, 0);
  const int at = exchange.word_of(own.b, own.i);
  float value = float(thread_index());
  for (int v = 1; v <= steps; ++v) {
    exchange.send(v, own.inside, at, value);
    exchange.receive(v);
    value += float_of_bits(exchange.buffer(v)[0] << 16);
    sync_block();
    exchange.received(v);
  }
  if (value == 1e30f) p.h[0] = value;
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

void configure(cudaLaunchConfig_t& config, cudaLaunchAttribute& attribute, const Tiling& t, int shared_bytes) {
  config.gridDim = dim3(unsigned(t.blocks * t.groups));
  config.blockDim = dim3(unsigned(t.warps * 32));
  config.dynamicSmemBytes = size_t(shared_bytes);
  if (t.cluster) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = unsigned(t.blocks);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  } else {
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }
  config.attrs = &attribute;
  config.numAttrs = 1;
}

// Clusters that the device holds at the same time.
template <class Kernel> int clusters_at_once(Kernel kernel, const Tiling& t, int shared_bytes) {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute = {};
  configure(config, attribute, t, shared_bytes);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  int groups = 0;
  if (cudaOccupancyMaxActiveClusters(&groups, kernel, &config) != cudaSuccess) groups = 0;
  cudaGetLastError();
  return groups;
}

// Microseconds of a step, the best of five launches.  clear: memory that each of them finds zero.
template <class... Arguments>
double time_steps(void (*kernel)(Arguments...), const Tiling& t, int shared_bytes, int steps, void* clear, size_t bytes,
                  Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute = {};
  configure(config, attribute, t, shared_bytes);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  float best = 1e30f;
  for (int repeat = 0; repeat < 6; ++repeat) {  // the first warms up
    if (clear) check(cudaMemsetAsync(clear, 0, bytes));
    check(cudaEventRecord(begin));
    check(cudaLaunchKernelEx(&config, kernel, arguments...));
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (repeat && milliseconds < best) best = milliseconds;
  }
  return 1e3 * double(best) / steps;
}

void report(const char* what, const Tiling& t, double microseconds) {
  std::printf("{\"what\": \"%s\", \"blocks\": %d, \"groups\": %d, \"threads\": %d, \"us\": %.4f}\n", what, t.blocks,
              t.groups, t.warps * 32, microseconds);
}

}  // namespace

int main() {
  constexpr int steps = 20000;
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0));
  int kilohertz = 0;  // the highest; 0 where the driver does not tell
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, 0) != cudaSuccess) kilohertz = 0;
  std::printf("{\"device\": \"%s\", \"multiprocessors\": %d, \"clock_mhz\": %d}\n", device.name,
              device.multiProcessorCount, kilohertz / 1000);
  for (int cluster = device.major >= 9; cluster >= 0; --cluster) {
    for (const int blocks : {2, 4, 8, 16, 32, 64}) {
      if (blocks > (cluster ? 16 : device.multiProcessorCount)) continue;
      for (const bool full : {false, true}) {
        Tiling t{cluster, blocks, 48, 8, 12, 1};
        Forward p{};
        p.shape = shape_of(t, Form::bf16, 0, false);
        // the weights of a block that meets too many others do not fit
        if (size_t(p.shape.total) > device.sharedMemPerBlockOptin) continue;
        const int most = cluster ? clusters_at_once(exchanges, t, p.shape.total) : device.multiProcessorCount / blocks;
        if (most == 0) continue;
        if (full) t.groups = most;
        p.sizes = {steps, 8 * t.groups, 48 * blocks, 0};
        p.tiling = t;
        if (cluster && !full) {
          clusters_at_once(cluster_barriers, t, 1024);  // allows the large ones
          report("cluster barrier", t, time_steps(cluster_barriers, t, 1024, steps, nullptr, 0, steps));
        }
        const size_t bytes = cluster ? 0 : size_t(exchange_bytes(p.shape, t, Form::bf16));
        if (bytes) check(cudaMalloc(&p.exchange, bytes));
        report(cluster ? "exchange in a cluster" : "exchange through device memory", t,
               time_steps(exchanges, t, p.shape.total, steps, p.exchange, bytes, p, steps));
        if (bytes) check(cudaFree(p.exchange));
      }
    }
  }
  return 0;
}
