// The gradient in the weight of a depth-wise convolution: weight_gradient[c, i, j] = sum over b, h, w of
// y_gradient[b, h, w, c] * x[b, h * stride + i - padding, w * stride + j - padding, c], zeros around x.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace pynas {

// A is the accumulate type: double for double, float otherwise.
struct DepthwiseWeightGradientArgs {
  const void* x;           // [B, H, W, C] of dtype
  const void* y_gradient;  // [B, H', W', C] of dtype
  double* partial;         // [ceil(B / images), K * K, C], workspace
  void* weight_gradient;   // [C, K, K] of A
  int64_t batch;           // B
  int64_t channels;        // C
  int64_t height;          // H
  int64_t width;           // W, with K * (W + 2 * padding) * 64 <= 2^16
  int64_t out_height;      // H'
  int64_t out_width;       // W'
  int64_t kernel;          // K: 5 or 7
  int64_t stride;
  int64_t padding;
  int64_t images;  // images in one partial sum
  DType dtype;
  int threads;
};

}  // namespace pynas

PYNAS_CPU_KERNEL(depthwise_weight_gradient, DepthwiseWeightGradientArgs)
