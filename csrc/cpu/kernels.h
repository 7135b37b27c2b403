// The CPU kernels of one instruction set, and the choice among those that were built and that the processor has.
#pragma once

#include <string>
#include <vector>

#include "gamma.h"
#include "sequence.h"

namespace aru {

struct Kernels {
  const char* isa;
  bool bfloat16_products;  // whether they are instructions, and so worth having
  void (*gamma_fwd)(Scalar, const GammaForward&);
  void (*gamma_bwd)(Scalar, const GammaBackward&);
  int64_t (*strip)(Scalar);  // rows that the controller takes at a time
  int64_t (*kept_elements)(Scalar, const SequenceSizes&);
  void (*aru_fwd)(Scalar, const AruForward&);
  void (*aru_bwd)(Scalar, const AruBackward&);
  void (*gamma_rnn_fwd)(Scalar, const GammaRnnForward&);
  void (*gamma_rnn_bwd)(Scalar, const GammaRnnBackward&);
  // Multiply-adds on registers, in each thread: what the kernels are measured against.  Returns their FLOP.
  double (*multiply_adds)(Scalar, int64_t rounds, int threads);
};

// In use: the best that the processor has, or the one that ARU_CPU_ISA or select_isa() named.
const Kernels& kernels();

// Names of the instruction sets that were built and that this processor has, best first.
std::vector<std::string> usable_isas();

// Throws std::invalid_argument with a sentence if `isa` is not among usable_isas(); "auto" takes the best.
void select_isa(const std::string& isa);

}  // namespace aru
