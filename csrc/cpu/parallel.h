// parallel_for over OpenMP, the thread pool that PyTorch uses too: no second pool fights it.
#pragma once

#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace aru {

// Threads to use when `requested` were asked for: 1 inside a parallel region and in a forked child, where the pool's
// threads do not exist.
int usable_threads(int requested);

// f(i) for 0 <= i < n, each i once, handed out one by one.  The result of f must not depend on the thread.
template <class F> void parallel_for(int64_t n, int threads, const F& f) {
  threads = n < threads ? int(n) : threads;
  threads = threads > 1 ? usable_threads(threads) : 1;
  if (threads <= 1) {
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t i = 0; i < n; ++i) f(i);
#endif
}

}  // namespace aru
