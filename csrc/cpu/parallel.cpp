#include "parallel.h"

#include <atomic>
#ifndef _WIN32
#include <pthread.h>
#endif

namespace aru {
namespace {

std::atomic<bool> forked{false};

#ifndef _WIN32
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

}  // namespace

int usable_threads(int requested) {
#ifdef _OPENMP
  if (!forked && !omp_in_parallel()) return requested;
#endif
  return 1;
}

}  // namespace aru
