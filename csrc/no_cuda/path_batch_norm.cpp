#include "common/path_batch_norm.h"

#include "common/error.h"

namespace pynas::cuda {
void path_batch_norm(const PathBatchNormArgs&, void*) { no_cuda("path_batch_norm"); }
}  // namespace pynas::cuda
