// The CUDA entries of a build without nvcc: a line per kernel. They throw, and Python raises RuntimeError.
#include <stdexcept>

#include "common/ensemble_loss.h"
#include "common/pareto.h"
#include "common/path_batch_norm.h"
#include "common/path_distance.h"
#include "common/queue_nce.h"
#include "common/saliency_boxes.h"
#include "common/traversal.h"

#define PYNAS_NO_CUDA(kernel, Args)                                                                       \
  void pynas::cuda::kernel(const Args&, void*) {                                                          \
    throw std::runtime_error("[" #kernel "] this build of pynas has no CUDA kernels; rebuild where nvcc " \
                             "is on PATH, or move the tensors to the CPU");                               \
  }

PYNAS_NO_CUDA(ensemble_loss, EnsembleLossArgs)
PYNAS_NO_CUDA(ensemble_loss_backward, EnsembleLossBackwardArgs)
PYNAS_NO_CUDA(pareto_dominated, ParetoDominatedArgs)
PYNAS_NO_CUDA(pareto_pairs, ParetoPairsArgs)
PYNAS_NO_CUDA(path_batch_norm, PathBatchNormArgs)
PYNAS_NO_CUDA(path_batch_norm_backward, PathBatchNormBackwardArgs)
PYNAS_NO_CUDA(path_distance, PathDistanceArgs)
PYNAS_NO_CUDA(queue_nce, QueueNceArgs)
PYNAS_NO_CUDA(saliency_boxes, SaliencyBoxesArgs)
PYNAS_NO_CUDA(traverse, TraverseArgs)
