#include "common/path_distance.h"

#include "common/error.h"

namespace pynas::cuda {
void path_distance(const PathDistanceArgs&, void*) { no_cuda("path_distance"); }
}  // namespace pynas::cuda
