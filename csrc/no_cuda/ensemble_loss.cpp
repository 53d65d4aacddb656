#include "common/ensemble_loss.h"

#include "common/error.h"

namespace pynas::cuda {
void ensemble_loss(const EnsembleLossArgs&, void*) { no_cuda("ensemble_loss"); }
void ensemble_loss_backward(const EnsembleLossBackwardArgs&, void*) { no_cuda("ensemble_loss"); }
}  // namespace pynas::cuda
