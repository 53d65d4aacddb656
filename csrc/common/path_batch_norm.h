// Batch normalisation with statistics per path, activation and residual: y = act((x - mean) / sqrt(var + eps) * weight +
// bias + residual), and its gradients. Memory is read once where a channel of a path fits the cache.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/math.h"

namespace pynas {

enum class Activation : int { none = 0, relu = 1, silu = 2 };

// What the pass forward and the pass backward share. A is the accumulate type: double for double, float otherwise. Tensors like x
// have the second shape if channels_last.
struct PathBatchNorm {
  const void* x;         // [G, B, C, S] or [G, B, S, C] of dtype
  const void* residual;  // as x, or null
  const void* weight;    // [C] of A, or null
  const void* bias;      // [C] of A, or null
  void* mean;            // [G, C] of A
  void* var;             // [G, C] of A; divided by n
  double* partial;       // workspace: G * C * ceil(B * S / chunk) * 2 sums, and on a GPU floor(G * C / 2) + 1 more
  int64_t paths;         // G
  int64_t batch;         // B
  int64_t channels;      // C
  int64_t size;          // S
  int64_t chunk;         // elements of a channel in one partial sum (CUDA, and channels-last on the CPU)
  double eps;
  bool channels_last;
  bool statistics_given;  // mean and var do not depend on x
  Activation activation;
  DType dtype;
  int threads;
};

// mean and var are read if statistics_given, written otherwise.
struct PathBatchNormArgs : PathBatchNorm {
  void* y;             // as x; may be x or residual itself
  void* running_mean;  // [C] of A, moves to the mean of the one path by `momentum`; null: no running averages
  void* running_var;   // [C] of A, likewise, to n / (n - 1) times var
  double momentum;
};

// The gradients of a loss, from its gradient in y and the inputs of the pass forward. The residual counts if there is an
// activation: without one its gradient is y's.
struct PathBatchNormBackwardArgs : PathBatchNorm {
  const void* y_gradient;   // as x
  void* x_gradient;         // as x
  void* residual_gradient;  // as x; null without a residual
  void* weight_gradient;    // [G, C] of A, summed over each path
  void* bias_gradient;      // [G, C] of A, likewise
};

// Writes the mean and variance of channel `at` of [G, C], and moves the running averages.
template <class A>
PYNAS_INLINE void write_statistics(const PathBatchNormArgs& args, int64_t at, double mean, double var) {
  static_cast<A*>(args.mean)[at] = static_cast<A>(mean);
  static_cast<A*>(args.var)[at] = static_cast<A>(var);
  if (args.running_mean == nullptr) return;
  A &mean_before = static_cast<A*>(args.running_mean)[at], &var_before = static_cast<A*>(args.running_var)[at];
  const double n = static_cast<double>(args.batch * args.size);
  mean_before = static_cast<A>((1 - args.momentum) * mean_before + args.momentum * mean);
  var_before = static_cast<A>((1 - args.momentum) * var_before + args.momentum * (var * (n / (n - 1))));
}

template <Activation activation, class A>
PYNAS_INLINE A activate(A x) {
  if constexpr (activation == Activation::relu) return x < A(0) ? A(0) : x;
  if constexpr (activation == Activation::silu) return silu(x);
  return x;
}

// The derivative of `activate` at x.
template <Activation activation, class A>
PYNAS_INLINE A activate_gradient(A x) {
  if constexpr (activation == Activation::relu) return x <= A(0) ? A(0) : A(1);
  if constexpr (activation == Activation::silu) {
    const A sigmoid = A(1) / (A(1) + bounded_exponential(-x));
    return sigmoid * (A(1) + x * (A(1) - sigmoid));
  }
  return A(1);
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
void path_batch_norm_backward(const PathBatchNormBackwardArgs& args, void* stream);
}  // namespace cuda

}  // namespace pynas

PYNAS_CPU_KERNEL(path_batch_norm, PathBatchNormArgs)
PYNAS_CPU_KERNEL(path_batch_norm_backward, PathBatchNormBackwardArgs)
