// Host side: which tiling a device takes, and the launch.  launch.cu does it on a GPU; the tests' emulation has a twin.
#pragma once

#include <cstdint>
#include <string>

#include "sequence.h"

namespace aru {
namespace cuda {

// The address of a compiled kernel, or null.
template <int parts, bool backward> const void* kernel_of(int tiles);

// What a tiling must fit.
struct Device {
  int multiprocessors;
  int shared_bytes;  // that a block may have
  int clusters;      // whether blocks can form clusters
  std::string name;
};

}  // namespace cuda
}  // namespace aru
