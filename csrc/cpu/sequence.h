// Arguments of the recurrent sequences on a CPU.  Tensors are contiguous; the sizes are T, B, H, G.
//
// A tile of sequences runs through all T steps as one task.  The tile's size, and with it the order of every sum,
// depends on the sizes only, never on the number of threads.
#pragma once

#include <cstdint>

#include "gamma.h"

namespace aru {

struct SequenceSizes {
  int64_t T, B, H, G;  // G = 0: the static network
  int64_t tile;        // sequences of a task
  int64_t segment;     // K: g is kept before every K-th step; 1 keeps it after every step
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
  const void* leak;  // [H]; null for a network without one
  double n_floor;
  void* h;       // [T,B,H]
  void* a;       // [T,B,H] or null
  void *n, *s;   // [T,B,H] or null
  void* g_last;  // [B,H,G]
  void* kept;    // [Kernels::kept_elements()], laid out by the kernels; null if no backward pass follows
  int threads;
};

struct AruBackward {
  SequenceSizes sizes;
  const void* h0;         // [B,H]; may be null if weight_hh is
  const void* g0;         // [B,H,G]; used if segment is 1
  const void* weight_hh;  // [H,H] or null, as in the forward pass
  ControllerWeights controller;
  const void* leak;  // [H] or null, as in the forward pass
  double n_floor;
  // Results of the forward pass.
  const void *h, *a;  // [T,B,H]
  const void *n, *s;  // [T,B,H]; used if segment is 1
  const void* kept;   // [Kernels::kept_elements()]
  // Gradients of the results; null for zero.
  const void *d_h, *d_a, *d_n, *d_s;  // [T,B,H]
  const void* d_h_last;               // [B,H], of the last h only, added to d_h
  const void* d_g_last;               // [B,H,G]
  // Gradients of the arguments.
  void* d_xp;         // [T,B,H]
  void* d_h0;         // [B,H]
  void* d_g0;         // [B,H,G]
  void* d_weight_hh;  // [H,H]
  void* d_weight_ag;  // [G]
  void* d_weight_gg;  // [G,G]
  void* d_bias_g;     // [G]
  void* d_weight_gc;  // [2,G]
  void* d_bias_c;     // [2]
  void* d_leak;       // [H]; null if leak is
  int threads;
};

struct GammaRnnForward {
  SequenceSizes sizes;
  const void* xp;         // [T,B,H]
  const void* h0;         // [B,H]
  const void* weight_hh;  // [H,H]
  const void *n, *s;      // [H]
  const void* leak;       // [H]; null for a network without one
  double n_floor;
  void* h;  // [T,B,H]
  void* a;  // [T,B,H] or null
  int threads;
};

struct GammaRnnBackward {
  SequenceSizes sizes;
  const void* h0;         // [B,H]
  const void* weight_hh;  // [H,H]
  const void *n, *s;      // [H]
  const void* leak;       // [H] or null, as in the forward pass
  double n_floor;
  const void *h, *a;      // [T,B,H], of the forward pass
  const void *d_h, *d_a;  // [T,B,H] or null
  const void* d_h_last;   // [B,H] or null; of the last h only, added to d_h
  void* d_xp;             // [T,B,H]
  void* d_h0;             // [B,H]
  void* d_weight_hh;      // [H,H]
  void *d_n, *d_s;        // [H]
  void* d_leak;           // [H]; null if leak is
  int threads;
};

}  // namespace aru
