// The recurrent sequences on a CPU.  Tensors are contiguous, the rightmost size fastest; T, B, I, H, G as everywhere.
//
// A task is a tile of sequences that runs through all T steps: no barrier anywhere.  The tile's size, and with it the
// order of every sum, depends on the sizes alone, never on the number of threads.
#pragma once

#include <cstdint>

#include "gamma.h"

namespace aru {

struct SequenceSizes {
  int64_t T, B, H, G;  // G = 0 for the static network
  int64_t tile;        // sequences in a task
  int64_t segment;     // K: g is kept before every K-th step; 1 keeps it after the last step too
};

struct ControllerWeights {
  const void* weight_ag;  // [G]
  const void* weight_gg;  // [G,G]
  const void* bias_g;     // [G]
  const void* weight_gc;  // [2,G]
  const void* bias_c;     // [2]
};

struct AruForward {
  SequenceSizes sizes;
  const void* xp;         // [T,B,H]
  const void* h0;         // [B,H]; may be null if weight_hh is
  const void* g0;         // [B,H,G]
  const void* weight_hh;  // [H,H]; null for a sequence of one step without recurrence
  ControllerWeights controller;
  double n_floor;
  void* h;       // [T,B,H]
  void* a;       // [T,B,H] or null
  void *n, *s;   // [T,B,H] or null
  void* g_last;  // [B,H,G]
  void* kept;    // Kernels::kept_elements of them, in a layout of their own; null where no backward pass follows
  int threads;
};

struct AruBackward {
  SequenceSizes sizes;
  const void *h0, *weight_hh;  // as in the forward pass
  ControllerWeights controller;
  double n_floor;
  const void *h, *a;  // [T,B,H]
  const void *n, *s;  // [T,B,H]; used where segment is 1
  const void* kept;
  // gradients of the results; null for zero
  const void *d_h, *d_a, *d_n, *d_s;  // [T,B,H]
  const void* d_h_last;               // [B,H], of the last h alone, beside d_h
  const void* d_g_last;               // [B,H,G]
  // gradients of the arguments
  void* d_xp;         // [T,B,H]
  void* d_h0;         // [B,H]
  void* d_g0;         // [B,H,G]
  void* d_weight_hh;  // [H,H]
  void *d_weight_ag, *d_weight_gg, *d_bias_g, *d_weight_gc, *d_bias_c;
  int threads;
};

struct GammaRnnForward {
  SequenceSizes sizes;
  const void *xp, *h0, *weight_hh;
  const void *n, *s;  // [H]
  double n_floor;
  void *h, *a;  // [T,B,H]; a may be null
  int threads;
};

struct GammaRnnBackward {
  SequenceSizes sizes;
  const void *h0, *weight_hh, *n, *s;
  double n_floor;
  const void *h, *a;
  const void *d_h, *d_a;  // [T,B,H] or null
  const void* d_h_last;   // [B,H] or null, of the last h alone
  void *d_xp, *d_h0, *d_weight_hh;
  void *d_n, *d_s;  // [H]
  int threads;
};

}  // namespace aru
