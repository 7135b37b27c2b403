#include "parallel.h"

#include "platform.h"

#ifndef _OPENMP
#include <condition_variable>
#include <mutex>
#include <vector>
#endif

namespace aru {
namespace {

std::atomic<bool> forked{false};

const bool watches_forks = [] {
  around_fork(nullptr, nullptr, [] { forked = true; });
  return true;
}();

#ifndef _OPENMP

thread_local bool in_parallel = false;

// A call of in_threads.
struct Job {
  void (*work)(const void*, int, int);
  const void* context;
  int threads;
  int left;  // workers that have not ended
  std::mutex mutex;
  std::condition_variable ended;
};

// A thread that sleeps until it is given a part of a job.
class Worker {
 public:
  Worker() {
    std::thread([this] { serve(); }).detach();
  }

  void start(Job* job, int index) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      index_ = index;
    }
    given_.notify_one();
  }

 private:
  [[noreturn]] void serve() {
    in_parallel = true;
    for (;;) {
      Job* job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        given_.wait(lock, [this] { return job_ != nullptr; });
        job = job_;
        job_ = nullptr;
      }
      job->work(job->context, index_, job->threads);
      // Under the lock: the job is gone as soon as its caller sees that nobody is left.
      std::lock_guard<std::mutex> lock(job->mutex);
      if (--job->left == 0) job->ended.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable given_;
  Job* job_ = nullptr;
  int index_ = 0;
};

// Workers without a job.  Callers at the same time have different ones.
struct IdleWorkers {
  std::mutex mutex;
  std::vector<Worker*> list;
};

// Never destroyed, and neither are the workers: they sleep until the process ends.
IdleWorkers& idle_workers() {
  static IdleWorkers* const idle = new IdleWorkers;
  return *idle;
}

// Up to `count` workers, fewer where the system gives no more threads.
std::vector<Worker*> take_workers(int count) {
  std::vector<Worker*> taken;
  taken.reserve(size_t(count));
  IdleWorkers& idle = idle_workers();
  std::lock_guard<std::mutex> lock(idle.mutex);
  while (int(taken.size()) < count && !idle.list.empty()) {
    taken.push_back(idle.list.back());
    idle.list.pop_back();
  }
  try {
    idle.list.reserve(size_t(count));
    while (int(taken.size()) < count) taken.push_back(new Worker);
  } catch (const std::exception&) {  // neither a thread nor memory for one
  }
  return taken;
}

void give_back(const std::vector<Worker*>& workers) {
  IdleWorkers& idle = idle_workers();
  std::lock_guard<std::mutex> lock(idle.mutex);
  idle.list.insert(idle.list.end(), workers.begin(), workers.end());
}

#endif

}  // namespace

int usable_threads(int requested) {
#ifdef _OPENMP
  const bool inside = omp_in_parallel();
#else
  const bool inside = in_parallel;
#endif
  return forked || inside ? 1 : requested;
}

#ifndef _OPENMP
void run_in_pool(int threads, void (*work)(const void*, int, int), const void* context) {
  const std::vector<Worker*> workers = take_workers(threads - 1);
  const int available = int(workers.size()) + 1;
  Job job{work, context, available, available - 1, {}, {}};
  for (int k = 1; k < available; ++k) workers[size_t(k - 1)]->start(&job, k);
  in_parallel = true;
  work(context, 0, available);
  in_parallel = false;
  {
    std::unique_lock<std::mutex> lock(job.mutex);
    job.ended.wait(lock, [&] { return job.left == 0; });
  }
  give_back(workers);
}
#endif

}  // namespace aru
