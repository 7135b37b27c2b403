// What each system does in its own way: aligned memory, objects of a thread, and work around a fork.
#pragma once

#include <cstddef>
#include <cstdlib>

#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <malloc.h>
#include <windows.h>

#include <new>
#else
#include <pthread.h>
#endif

namespace aru {

// Memory whose address is a multiple of `alignment`, a power of two; null where there is none.
inline void* aligned_allocate(size_t alignment, size_t bytes) {
#ifdef _WIN32
  return _aligned_malloc(bytes, alignment);
#else
  void* p = nullptr;
  return posix_memalign(&p, alignment, bytes) ? nullptr : p;
#endif
}

// Frees memory of aligned_allocate; null does nothing.
inline void aligned_free(void* p) {
#ifdef _WIN32
  _aligned_free(p);
#else
  std::free(p);
#endif
}

// The calling thread's own T, which is destroyed when the thread ends.  One T for each type.
template <class T> T& of_thread() {
#ifdef _WIN32
  // MinGW frees the memory of a thread_local object before it calls the destructor.
  static const DWORD slot = FlsAlloc([](void* object) { delete static_cast<T*>(object); });
  T* object = static_cast<T*>(FlsGetValue(slot));
  if (!object) {
    object = new T;
    if (!FlsSetValue(slot, object)) {
      delete object;
      throw std::bad_alloc();
    }
  }
  return *object;
#else
  static thread_local T object;
  return object;
#endif
}

// Calls `before` and `in_parent` in a process that forks, and `in_child` in its child; null does nothing.  Windows has
// no fork.
inline void around_fork(void (*before)(), void (*in_parent)(), void (*in_child)()) {
#ifdef _WIN32
  (void)before, (void)in_parent, (void)in_child;
#else
  pthread_atfork(before, in_parent, in_child);
#endif
}

}  // namespace aru
