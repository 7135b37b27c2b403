// Memory that outlives a call, because fresh pages cost more than the arithmetic done in them.
#pragma once

#include <cstddef>

namespace aru {

constexpr size_t page = 4096;

// Scratch of the calling thread: at least `bytes`, page-aligned, uninitialised; valid until the thread's next call.
void* thread_scratch(size_t bytes);

// Buffers for state kept between a forward and a backward pass.  A released one is kept for reuse while the bytes
// that lie idle stay below what was in use at once, and below most_idle: beyond that, arithmetic outweighs fresh pages.
constexpr size_t most_idle = size_t(1) << 30;
void* acquire_buffer(size_t bytes);
void release_buffer(void* buffer);

// Bytes lying idle; frees them.
size_t idle_bytes();
void free_idle();

}  // namespace aru
