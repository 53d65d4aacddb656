// Squeeze-excitation and its gradients: y = x * gate, gate = sigmoid(expand(squeezed)), squeezed = silu(hidden), hidden =
// reduce(mean of x over space). A sample is read from memory once where it fits the cache.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace pynas {

// What both passes share. A is the accumulate type: double for double, float otherwise. Tensors like x have the second shape if
// channels_last.
struct SqueezeExcitation {
  const void* x;              // [B, C, S] or [B, S, C] of dtype
  const void* reduce_weight;  // [R, C] of A
  const void* expand_weight;  // [R, C] of A: the transpose of expand's
  void* kept;     // [2 B (C + R)] of A: mean, gate [B, C] and hidden, squeezed [B, R]; written forward, read backward
  int64_t batch;  // B
  int64_t channels;  // C
  int64_t reduced;   // R
  int64_t size;      // S
  bool channels_last;
  DType dtype;
  int threads;
};

struct SqueezeExcitationArgs : SqueezeExcitation {
  const void* reduce_bias;  // [R] of A
  const void* expand_bias;  // [C] of A
  void* y;                  // as x
};

struct SqueezeExcitationBackwardArgs : SqueezeExcitation {
  const void* y_gradient;        // as x
  void* x_gradient;              // as x
  void* kept_gradient;           // workspace as kept: the gradients of mean, of gate before the sigmoid, and of hidden
  void* reduce_weight_gradient;  // [R, C] of A
  void* reduce_bias_gradient;    // [R] of A
  void* expand_weight_gradient;  // [R, C] of A: the transpose of expand's
  void* expand_bias_gradient;    // [C] of A
};

}  // namespace pynas

PYNAS_CPU_KERNEL(squeeze_excitation, SqueezeExcitationArgs)
PYNAS_CPU_KERNEL(squeeze_excitation_backward, SqueezeExcitationBackwardArgs)
