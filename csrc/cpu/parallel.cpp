#include "parallel.h"

#include <pthread.h>

#include <atomic>

namespace aru {
namespace {

std::atomic<bool> forked{false};

const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

int usable_threads(int requested) {
#if defined(ARU_STD_THREADS)
  return requested;
#elif defined(_OPENMP)
  if (!forked && !omp_in_parallel()) return requested;
#endif
  return 1;
}

}  // namespace aru
