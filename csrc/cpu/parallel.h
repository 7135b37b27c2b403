// parallel_for over OpenMP, the thread pool that PyTorch uses too: no second pool fights it.  A compiler without OpenMP
// gets a pool of C++ threads, which sleep between calls.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <thread>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "denormals.h"

namespace aru {

// Threads to use when `requested` were asked for: 1 inside a parallel region and in a forked child, where the pool's
// threads do not exist.
int usable_threads(int requested);

// Where the threads of a team wait for each other.
class alignas(64) Barrier {
 public:
  void wait(int size) {
    const int64_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    // Steps last microseconds: spin, and give way only where another program has the processor of who is late.
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (failed_.load(std::memory_order_relaxed)) throw std::runtime_error("another thread of the team failed");
      if (spins < 1000) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      } else {
        std::this_thread::yield();
      }
    }
  }
  void fail() { failed_.store(true, std::memory_order_relaxed); }

 private:
  std::atomic<int> arrived_{0};
  std::atomic<int64_t> round_{0};
  std::atomic<bool> failed_{false};
};

// A thread's place in the team that works on one task.
struct Member {
  int index = 0, size = 1;
  Barrier* barrier = nullptr;

  void wait() const {
    if (size > 1) barrier->wait(size);
  }
  // The share of [0, n) of this member.
  int64_t begin(int64_t n) const { return n * index / size; }
  int64_t end(int64_t n) const { return n * (index + 1) / size; }
};

// Remembers the first exception of several threads.
class FirstError {
 public:
  template <class F> void guard(const F& f) {
    try {
      if (!failed_) f();
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  }
  bool failed() const { return failed_; }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

#ifndef _OPENMP
// work(context, k, available) for 0 <= k < available at the same time, 0 in the calling thread.
void run_in_pool(int threads, void (*work)(const void*, int, int), const void* context);
#endif

// Calls f(k, n) once in each of n threads; n is `threads`, or less if the system provides fewer.  f must not throw.
template <class F> void in_threads(int threads, const F& f) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  {
    const DenormalsAreZero here;
    f(omp_get_thread_num(), omp_get_num_threads());
  }
#else
  const auto work = [](const void* context, int k, int available) {
    const DenormalsAreZero here;
    (*static_cast<const F*>(context))(k, available);
  };
  run_in_pool(threads, work, &f);
#endif
}

// f(i) for 0 <= i < n, each i once, handed out one by one.  The result of f must not depend on the thread.  The first
// exception is thrown again where all have ended; what has not begun by then is left out.
template <class F> void parallel_for(int64_t n, int threads, const F& f) {
  threads = n < threads ? int(n) : threads;
  threads = threads > 1 ? usable_threads(threads) : 1;
  if (threads <= 1) {
    const DenormalsAreZero here;
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
  FirstError error;
  std::atomic<int64_t> next{0};
  in_threads(threads, [&](int, int) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) error.guard([&] { f(i); });
  });
  error.rethrow();
}

// f(i, member) for 0 <= i < n.  Where there are threads for it, up to `largest` of them do a task together: f is then
// called once for each member of its team.
template <class F> void parallel_teams(int64_t n, int64_t largest, int threads, const F& f) {
  threads = n * largest < threads ? int(n * largest) : threads;
  threads = threads > 1 ? usable_threads(threads) : 1;
  if (threads < 2 * n) return parallel_for(n, threads, [&](int64_t i) { f(i, Member{}); });
  FirstError error;
  const std::unique_ptr<Barrier[]> barriers(new Barrier[size_t(n)]);
  in_threads(threads, [&](int k, int available) {
    const int64_t share = available / n, size = share < 1 ? 1 : (share < largest ? share : largest);
    const int64_t teams = available / size;
    for (int64_t i = k / size; i < n && k / size < teams; i += teams) {
      error.guard([&] { f(i, Member{int(k % size), int(size), &barriers[i]}); });
      if (error.failed()) barriers[i].fail();
    }
  });
  error.rethrow();
}

}  // namespace aru
