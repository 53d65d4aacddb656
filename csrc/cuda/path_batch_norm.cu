#include "common/path_batch_norm.h"

#include "cuda/reduce.cuh"
namespace pynas::cuda {
void path_batch_norm(const PathBatchNormArgs&, void*) {}
}
