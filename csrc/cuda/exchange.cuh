// The step's one exchange: every block sends its slice of a vector (h forward, da backward) to all blocks of its group.
//
// Vectors are numbered by a counter that runs through all steps and batch tiles; vector v lies in buffer v % 2.  Two
// buffers suffice without another barrier: a block sends vector v + 1 only when it has vector v from all blocks, and
// each warp sends vector v only after its block has read vector v - 1, whose buffer vector v + 1 takes.  So every
// vector is sent to the end and waited for, the last of a batch tile too, though nobody reads that one.
#pragma once

#include "device_layout.h"
#include "products.cuh"

namespace aru {
namespace cuda {

template <Form form> struct Exchange {
  static constexpr int words = words_of(form);  // of a pair of numbers
  const Tiling& tiling;
  const Shape& shape;
  uint32_t* state;     // shared: [buffer][word][batch][state_words]
  uint64_t* barriers;  // shared, of a cluster: one a buffer
  uint32_t* device;    // device memory: [buffer][word][batch][padded_H / 2], then the counter
  int rank;            // of the block in its group

  template <class Arguments> ARU_DEVICE Exchange create(const Arguments& p, uint8_t* shared) {
    const int group = block_index() / p.tiling.blocks;
    uint32_t* device = nullptr;
    if (!p.tiling.cluster) device = p.exchange + group * (exchange_words(p.shape, p.tiling, form) + counter_words);
    return {p.tiling,
            p.shape,
            reinterpret_cast<uint32_t*>(shared + p.shape.state),
            reinterpret_cast<uint64_t*>(shared + p.shape.barriers),
            device,
            block_index() % p.tiling.blocks};
  }

  ARU_METHOD int buffer_words() const { return words * tiling.batch * shape.state_words; }
  ARU_METHOD uint32_t* buffer(int v) const { return state + (tiling.cluster ? (v & 1) * buffer_words() : 0); }
  ARU_METHOD unsigned* counter() const { return device + exchange_words(shape, tiling, form); }

  // Called before anything is sent; contains a barrier of the block.
  ARU_METHOD void open() const {
    const int all = (tiling.cluster ? 2 : 1) * buffer_words();
    for (int e = thread_index(); e < all; e += block_threads()) state[e] = 0;
    if (tiling.cluster) {
      if (warp_index() == 0) mbarrier_init(thread_index() < 2, barriers + (thread_index() & 1), 1);
      sync_block();  // for compute-sanitizer, which takes the two for a race within the warp
      if (thread_index() < 2) mbarrier_expect(barriers + thread_index(), shape.exchanged_bytes);
      sync_warp();
      cluster_sync();
    } else {
      sync_block();
    }
  }

  // The first word of the four elements of this lane's quad, in a row of the buffer; the lane has neuron i of the slice
  // in sequence b.
  ARU_METHOD int word_of(int b, int i) const {
    const int row = tiling.cluster ? shape.state_words : shape.padded_H / 2;
    return b * row + (rank * tiling.slice + (i & ~3)) / 2;
  }

  // Sends this lane's element of vector v.  Lanes 4j ... 4j+3 of a warp, a quad, have four neighbouring neurons of one
  // sequence; `at` is their word_of().  All lanes of a warp call it; `inside` is the same in a quad.
  ARU_METHOD void send(int v, bool inside, int at, float value) const {
    const int lane = thread_index() & 31, q = lane & 3;
    float four[4];
    ARU_UNROLL
    for (int j = 0; j < 4; ++j) four[j] = shuffle(value, (lane & 28) + j);
    uint32_t left[words], right[words];
    pack<form>(four[0], four[1], left);
    pack<form>(four[2], four[3], right);
    if (!inside) return;
    ARU_UNROLL
    for (int p = 0; p < words; ++p) {
      if (tiling.cluster) {
        const uint32_t* to = buffer(v) + p * tiling.batch * shape.state_words + at;
        ARU_ROLLED
        for (int r = q; r < tiling.blocks; r += 4) store_async(to, r, left[p], right[p], barriers + (v & 1));
      } else if (q == 0) {
        uint32_t* to = device + ((v & 1) * words + p) * tiling.batch * (shape.padded_H / 2) + at;
        store_device(reinterpret_cast<uint2*>(to), left[p], right[p]);
      }
    }
  }

  // Waits for vector v of all blocks; then buffer(v) has it.
  ARU_METHOD void receive(int v) const {
    if (tiling.cluster) {
      mbarrier_wait(barriers + (v & 1), ((v - 1) >> 1) & 1);
      return;
    }
    sync_block();
    if (thread_index() == 0) {
      add_release(counter());
      wait_acquire(counter(), unsigned(v) * unsigned(tiling.blocks));
    }
    sync_block();
    const int row = shape.padded_H / 4, rows = words * tiling.batch;
    const uint2* from = reinterpret_cast<const uint2*>(device + (v & 1) * rows * (shape.padded_H / 2));
    for (int e = thread_index(); e < rows * row; e += block_threads())
      if (e % row < tiling.blocks * tiling.slice / 4)
        *reinterpret_cast<uint2*>(state + e / row * shape.state_words + e % row * 2) = load_device(from + e);
    sync_block();
  }

  // Makes the buffer's barrier ready for vector v + 2; called when all threads of the block have received vector v.
  ARU_METHOD void received(int v) const {
    if (tiling.cluster && thread_index() == 0) mbarrier_expect(barriers + (v & 1), shape.exchanged_bytes);
  }

  // Fills this block's buffer(v) with rows b0, b0 + 1, ... of a matrix [B][H], or with 0 for a null matrix.
  ARU_METHOD void fill(int v, const float* matrix, int b0, int B, int H) const {
    uint32_t* to = buffer(v);
    const int row = shape.padded_H / 2;
    for (int e = thread_index(); e < tiling.batch * row; e += block_threads()) {
      const int b = e / row, i = e % row * 2;
      const float* from = matrix + size_t(b0 + b) * H + i;
      const bool valid = matrix && b0 + b < B;
      uint32_t pair[words];
      pack<form>(valid && i < H ? from[0] : 0.f, valid && i + 1 < H ? from[1] : 0.f, pair);
      ARU_UNROLL
      for (int p = 0; p < words; ++p) to[(p * tiling.batch + b) * shape.state_words + e % row] = pair[p];
    }
  }
};

}  // namespace cuda
}  // namespace aru
