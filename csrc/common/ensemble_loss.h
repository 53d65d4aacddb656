// Squared distance of every path's online row to the mean of all paths' target rows (BossNAS eq. 3 and 4).
//
// All rows of a sample are used while its mean is in the cache. The backward pass needs the mean and two numbers per online
// row: with u = online * inverse, the gradient of the row is a multiple of u * (1 - along) - mean.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace pynas {

// A is the accumulate type: double for double, float otherwise.
struct EnsembleLossArgs {
  const void* online;  // [P, B, D] of dtype
  const void* target;  // [P, B, D] of dtype
  void* loss;          // [P] of A
  void* mean;          // [B, D] of A, the ensemble of the targets
  void* inverse;       // [P, B] of A, one over the norm of an online row (1 if not normalised)
  void* along;         // [P, B] of A, u . (u - mean) (0 if the norm has no gradient)
  void* distance;      // [P, B] of A, workspace
  int64_t paths;       // P
  int64_t batch;       // B
  int64_t size;        // D
  bool normalize;
  bool renormalize;
  DType dtype;
  int threads;
};

struct EnsembleLossBackwardArgs {
  const void* gradient;   // [P] of A
  const void* online;     // [P, B, D] of dtype
  const void* mean;       // [B, D] of A
  const void* inverse;    // [P, B] of A
  const void* along;      // [P, B] of A
  void* online_gradient;  // [P, B, D] of dtype
  int64_t paths;          // P
  int64_t batch;          // B
  int64_t size;           // D
  DType dtype;
  int threads;
};

// Norms are clamped to at least this, as in torch.nn.functional.normalize; a clamped norm has no gradient.
constexpr double kNormFloor = 1e-12;

namespace cuda {
void ensemble_loss(const EnsembleLossArgs& args, void* stream);
void ensemble_loss_backward(const EnsembleLossBackwardArgs& args, void* stream);
}  // namespace cuda

}  // namespace pynas

PYNAS_CPU_KERNEL(ensemble_loss, EnsembleLossArgs)
PYNAS_CPU_KERNEL(ensemble_loss_backward, EnsembleLossBackwardArgs)
