// Denormal numbers count as 0 in the kernels, as they do on a GPU.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace aru {

// While it lives, the calling thread takes denormal numbers for 0, as operands and as results.  An instruction that
// meets one takes 150 cycles on Intel's processors: gamma where z = n x is below -44 took 20 times as long, and so does
// a gradient that vanishes over many steps.  Other architectures have no such penalty and keep them.
class DenormalsAreZero {
 public:
#ifdef __x86_64__
  DenormalsAreZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | flush_to_zero | denormals_are_zero); }
  ~DenormalsAreZero() { _mm_setcsr(before_); }

 private:
  static constexpr unsigned flush_to_zero = 0x8000, denormals_are_zero = 0x40;
  unsigned before_;

 public:
#else
  DenormalsAreZero() {}
  ~DenormalsAreZero() {}
#endif
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;
};

}  // namespace aru
