// The step's one exchange: every block sends its slice of a vector (h forward, da backward) to all blocks of its group,
// a team to the same team of the other blocks.
//
// Vectors are numbered by a counter that runs through all steps and batch tiles; vector v lies in buffer v % 2.  Two
// buffers suffice without another barrier: a block sends vector v + 1 only when it has vector v from all blocks, and
// each warp sends vector v only after its team has read vector v - 1, whose buffer vector v + 1 takes.  So every vector
// is sent to the end and waited for, the last of a batch tile too, though nobody reads that one.
#pragma once

#include "products.cuh"
#include "sequence.h"
#include "team.cuh"

namespace aru {
namespace cuda {

template <Form form> struct Exchange {
  static constexpr int words = words_of(form);  // of a pair of numbers
  const Tiling& tiling;
  const Shape& shape;
  const OwnTeam& own;
  uint32_t* state;     // shared, the team's: [buffer][word][team_batch][state_words]
  uint64_t* barriers;  // shared, of a cluster: one a buffer
  uint32_t* device;    // device memory: [buffer][word][team_batch][padded_H / 2], then the counter
  int rank;            // of the block in its group

  template <class Arguments>
  ARU_DEVICE Exchange create(const Arguments& p, const OwnTeam& own, uint8_t* shared) {
    Exchange e{p.tiling, p.shape, own, nullptr, nullptr, nullptr, block_index() % p.tiling.blocks};
    e.state = reinterpret_cast<uint32_t*>(shared + p.shape.state) + own.index * e.team_words();
    e.barriers = reinterpret_cast<uint64_t*>(shared + p.shape.barriers) + own.index * 2;
    if (!p.tiling.cluster)
      e.device = p.exchange + (block_index() / p.tiling.blocks * p.tiling.teams + own.index) *
                                  (exchange_words(p.shape, form) + counter_words);
    return e;
  }

  ARU_METHOD int buffer_words() const { return words * shape.team_batch * shape.state_words; }
  ARU_METHOD int team_words() const { return (tiling.cluster ? 2 : 1) * buffer_words(); }
  ARU_METHOD uint32_t* buffer(int v) const { return state + (tiling.cluster ? (v & 1) * buffer_words() : 0); }
  ARU_METHOD unsigned* counter() const { return device + exchange_words(shape, form); }

  // Before anything is sent; contains a barrier of the block.
  ARU_METHOD void open() const {
    for (int e = own.thread; e < team_words(); e += own.team.warps * 32) state[e] = 0;
    if (tiling.cluster) {
      if (own.thread < 2) {
        mbarrier_init(barriers + own.thread, 1);
        mbarrier_expect(barriers + own.thread, own.team.exchanged_bytes);
      }
      sync_warp();
      cluster_sync();
    } else {
      sync_block();
    }
  }

  // Where this lane's quad has its four elements: the first word, neuron i of the slice in sequence b being the lane's.
  ARU_METHOD int place(int b, int i) const {
    const int row = tiling.cluster ? shape.state_words : shape.padded_H / 2;
    return b * row + (rank * tiling.slice + (i & ~3)) / 2;
  }

  // This lane's element of vector v: lanes 4j ... 4j+3 of a warp have four neighbouring neurons of one sequence, whose
  // place() is `at`.  All lanes of a warp call it; `inside` is the same for the four.
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
        const uint32_t* to = buffer(v) + p * shape.team_batch * shape.state_words + at;
        ARU_ROLLED
        for (int r = q; r < tiling.blocks; r += 4) store_async(to, r, left[p], right[p], barriers + (v & 1));
      } else if (q == 0) {
        uint32_t* to = device + ((v & 1) * words + p) * shape.team_batch * (shape.padded_H / 2) + at;
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
    own.sync();
    if (own.thread == 0) {
      add_release(counter());
      wait_acquire(counter(), unsigned(v) * unsigned(tiling.blocks));
    }
    own.sync();
    const int row = shape.padded_H / 4, rows = words * shape.team_batch;
    const uint2* from = reinterpret_cast<const uint2*>(device + (v & 1) * rows * (shape.padded_H / 2));
    for (int e = own.thread; e < rows * row; e += own.team.warps * 32)
      if (e / row % shape.team_batch < own.team.batch && e % row < tiling.blocks * tiling.slice / 4)
        *reinterpret_cast<uint2*>(state + e / row * shape.state_words + e % row * 2) = load_device(from + e);
    own.sync();
  }

  // When all threads of the team have received vector v: makes its buffer's barrier ready for vector v + 2.
  ARU_METHOD void received(int v) const {
    if (tiling.cluster && own.thread == 0) mbarrier_expect(barriers + (v & 1), own.team.exchanged_bytes);
  }

  // Fills buffer(v) with rows b0 ... of a matrix [B][H], or with 0 where there is none.
  ARU_METHOD void fill(int v, const float* matrix, int b0, int B, int H) const {
    uint32_t* to = buffer(v);
    const int row = shape.padded_H / 2;
    for (int e = own.thread; e < own.team.batch * row; e += own.team.warps * 32) {
      const int b = e / row, i = e % row * 2;
      const float* from = matrix + size_t(b0 + b) * H + i;
      const bool some = matrix && b0 + b < B;
      uint32_t pair[words];
      pack<form>(some && i < H ? from[0] : 0.f, some && i + 1 < H ? from[1] : 0.f, pair);
      ARU_UNROLL
      for (int p = 0; p < words; ++p) to[(p * shape.team_batch + b) * shape.state_words + e % row] = pair[p];
    }
  }
};

}  // namespace cuda
}  // namespace aru
