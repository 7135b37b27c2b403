// parallel_for over OpenMP, the thread pool that PyTorch uses too: no second pool fights it.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#if defined(ARU_STD_THREADS)  // ThreadSanitizer knows these threads; it does not know OpenMP's
#include <thread>
#include <vector>
#elif defined(_OPENMP)
#include <omp.h>
#endif

namespace aru {

// Threads to use when `requested` were asked for: 1 inside a parallel region and in a forked child, where the pool's
// threads do not exist.
int usable_threads(int requested);

// f(i) for 0 <= i < n, each i once, handed out one by one.  The result of f must not depend on the thread.  The first
// exception is thrown again where all have ended; what has not begun by then is left out.
template <class F> void parallel_for(int64_t n, int threads, const F& f) {
  threads = n < threads ? int(n) : threads;
  threads = threads > 1 ? usable_threads(threads) : 1;
  if (threads <= 1) {
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  const auto guarded = [&](int64_t i) {
    try {
      if (!failed) f(i);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  };
#if defined(ARU_STD_THREADS)
  std::atomic<int64_t> next{0};
  std::vector<std::thread> team;
  for (int k = 0; k < threads; ++k)
    team.emplace_back([&] {
      for (int64_t i; (i = next++) < n;) guarded(i);
    });
  for (std::thread& member : team) member.join();
#elif defined(_OPENMP)
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t i = 0; i < n; ++i) guarded(i);
#endif
  if (error) std::rethrow_exception(error);
}

}  // namespace aru
