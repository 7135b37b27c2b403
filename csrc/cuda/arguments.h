// The arguments of the kernels.  Tensors are float32 and contiguous; the sizes are T, B, H, G.
#pragma once

#include "device_layout.h"

namespace aru {
namespace cuda {

struct ControllerWeights {
  const float* weight_ag;  // [G]
  const float* weight_gg;  // [G,G]
  const float* bias_g;     // [G]
  const float* weight_gc;  // [2,G]
  const float* bias_c;     // [2]
};

// Slot j of the kept state has g before step j * segment; with segment 1 one more slot has the last g.
struct Forward {
  Sizes sizes;
  Tiling tiling;
  Shape shape;                     // shape_of() the tiling, forward
  const float* xp;                 // [T,B,H]
  const float* h0;                 // [B,H]
  const float* g0;                 // [B,H,G]
  const float* weight_hh;          // [H,H]
  ControllerWeights controller;    // adaptive network
  const float *n_given, *s_given;  // [H], static network
  float n_floor;
  float* h;            // [T,B,H]
  float *a, *n, *s;    // [T,B,H], or null
  float* g_last;       // [B,H,G]
  void* kept;          // slots of slot_bytes; null if no backward pass follows
  int64_t slot_bytes;  // kept_slot_bytes()
  int segment;         // steps between two slots
  uint32_t* exchange;  // exchange_bytes(); unused in a cluster
};

struct Backward {
  Sizes sizes;
  Tiling tiling;
  Shape shape;                     // shape_of() the tiling, backward
  const float* weight_hh;          // [H,H]
  ControllerWeights controller;    // adaptive network
  const float *n_given, *s_given;  // [H], static network
  float n_floor;
  // Results of the forward pass.
  const float* a;      // [T,B,H]
  const float *n, *s;  // [T,B,H], adaptive network
  const void* kept;    // slots of slot_bytes
  int64_t slot_bytes;  // kept_slot_bytes()
  int segment;         // steps between two slots
  void* recomputed;    // `segment` slots for g after each step of a segment; unused if segment is 1
  // Gradients of the results; null for zero.
  const float *d_h, *d_a, *d_n, *d_s;  // [T,B,H]
  const float* d_h_last;               // [B,H], of the last h only, added to d_h
  const float* d_g_last;               // [B,H,G]
  // Gradients of the arguments.
  float* d_xp;         // [T,B,H]
  float* d_h0;         // [B,H]
  float* d_g0;         // [B,H,G]
  float* sums;         // [parts,rows,columns] of sums_shape(), to be added up over the parts
  uint32_t* exchange;  // exchange_bytes(); unused in a cluster
};

}  // namespace cuda
}  // namespace aru
