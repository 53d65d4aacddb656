// Batch normalisation with statistics per path, activation and residual: y = act((x - mean) / sqrt(var + eps) * weight +
// bias + residual). Memory is read once where a channel of a path fits the cache.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/math.h"

namespace pynas {

enum class Activation : int { none = 0, relu = 1, silu = 2 };

// A is the accumulate type: double for double, float otherwise. x, residual and y have the second shape if channels_last.
struct PathBatchNormArgs {
  const void* x;         // [G, B, C, S] or [G, B, S, C] of dtype
  const void* residual;  // as x, or null
  const void* weight;    // [C] of A, or null
  const void* bias;      // [C] of A, or null
  void* mean;            // [G, C] of A: read if statistics_given, written otherwise
  void* var;             // [G, C] of A, likewise; divided by n
  void* y;               // as x; may be x or residual itself
  double* partial;       // workspace: G * C * ceil(B * S / chunk) * 2 sums, and on a GPU floor(G * C / 2) + 1 more
  int64_t paths;         // G
  int64_t batch;         // B
  int64_t channels;      // C
  int64_t size;          // S
  int64_t chunk;         // elements of a channel in one partial sum (CUDA, and channels-last on the CPU)
  double eps;
  bool channels_last;
  bool statistics_given;
  Activation activation;
  DType dtype;
  int threads;
};

template <Activation activation, class A>
PYNAS_INLINE A activate(A x) {
  if constexpr (activation == Activation::relu) return x < A(0) ? A(0) : x;
  if constexpr (activation == Activation::silu) return silu(x);
  return x;
}

// Calls f(tag) with the activation as the constant decltype(tag)::value.
template <Activation activation>
struct ActivationTag {
  static constexpr Activation value = activation;
};
template <class F>
void dispatch_activation(Activation activation, F&& f) {
  switch (activation) {
    case Activation::relu: return f(ActivationTag<Activation::relu>{});
    case Activation::silu: return f(ActivationTag<Activation::silu>{});
    default: return f(ActivationTag<Activation::none>{});
  }
}

namespace cuda {
void path_batch_norm(const PathBatchNormArgs& args, void* stream);
}

}  // namespace pynas

PYNAS_CPU_KERNEL(path_batch_norm, PathBatchNormArgs)
