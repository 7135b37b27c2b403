#include "workspace.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>

#include "platform.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace aru {
namespace {

size_t round_up(size_t bytes) {
  if (bytes > SIZE_MAX - page) return bytes;  // too much in any case
  return (bytes + page - 1) / page * page;
}

// Python makes a MemoryError with this text of it.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(size_t bytes)
      : text_("the CPU kernels asked for " + std::to_string(bytes) +
              " bytes of memory and got none. With a smaller ARU_STATE_BUDGET a call keeps less state for its "
              "backward pass.") {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

void* allocate_once(size_t bytes) {
  constexpr size_t huge_page = size_t(2) << 20;
  void* p = aligned_allocate(bytes >= huge_page ? huge_page : page, bytes);
#ifdef __linux__
  if (p && bytes >= huge_page) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return p;
}

// Gives idle buffers back where memory is short. The pool must not be locked.
void* allocate(size_t bytes) {
  void* p = allocate_once(bytes);
  if (!p) {
    free_idle();
    p = allocate_once(bytes);
  }
  if (!p) throw OutOfMemory(bytes);
  return p;
}

struct Scratch {
  void* data = nullptr;
  size_t bytes = 0;
  ~Scratch() { aligned_free(data); }
};

struct Pool {
  std::mutex mutex;
  std::multimap<size_t, void*> idle;
  std::unordered_map<void*, size_t> used;
  size_t idle_total = 0, used_total = 0, used_peak = 0;

  void count_used(size_t bytes) {
    used_total += bytes;
    used_peak = std::max(used_peak, used_total);
  }
};

// Never destroyed: tensors may give buffers back while the process ends.
Pool& pool() {
  static Pool* p = [] {
    Pool* made = new Pool;
    // A child process must not inherit a lock that another thread holds.
    around_fork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); }, [] { pool().mutex.unlock(); });
    return made;
  }();
  return *p;
}

}  // namespace

void* thread_scratch(size_t bytes) {
  Scratch& scratch = of_thread<Scratch>();
  if (scratch.bytes < bytes) {
    aligned_free(scratch.data);
    scratch.data = nullptr;
    scratch.bytes = 0;
    scratch.data = allocate(round_up(bytes));
    scratch.bytes = bytes;
  }
  return scratch.data;
}

void* acquire_buffer(size_t bytes) {
  bytes = round_up(bytes ? bytes : 1);
  Pool& p = pool();
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    // An idle buffer of up to twice the size serves; a larger one would waste memory.
    const auto found = p.idle.lower_bound(bytes);
    if (found != p.idle.end() && found->first <= 2 * bytes) {
      void* buffer = found->second;
      p.used.emplace(buffer, found->first);
      p.idle_total -= found->first;
      p.count_used(found->first);
      p.idle.erase(found);
      return buffer;
    }
  }
  void* buffer = allocate(bytes);
  std::lock_guard<std::mutex> lock(p.mutex);
  try {
    p.used.emplace(buffer, bytes);
  } catch (...) {
    aligned_free(buffer);
    throw;
  }
  p.count_used(bytes);
  return buffer;
}

void release_buffer(void* buffer) {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  const auto found = p.used.find(buffer);
  const size_t bytes = found->second;
  p.used.erase(found);
  p.used_total -= bytes;
  try {
    p.idle.emplace(bytes, buffer);
  } catch (const std::bad_alloc&) {  // not even memory for the entry: called from destructors, which may not throw
    aligned_free(buffer);
    return;
  }
  p.idle_total += bytes;
  while (p.idle_total > most_idle || (p.idle_total + p.used_total > p.used_peak && !p.idle.empty())) {
    const auto victim = p.idle_total > most_idle ? std::prev(p.idle.end()) : p.idle.begin();
    p.idle_total -= victim->first;
    aligned_free(victim->second);
    p.idle.erase(victim);
  }
}

size_t idle_bytes() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  return p.idle_total;
}

void free_idle() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  for (const auto& [bytes, buffer] : p.idle) aligned_free(buffer);
  p.idle.clear();
  p.idle_total = 0;
  p.used_peak = p.used_total;
}

}  // namespace aru
