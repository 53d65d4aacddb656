#include "common/pareto.h"

#include "common/error.h"

namespace pynas::cuda {
void pareto_pairs(const ParetoPairsArgs&, void*) { no_cuda("pareto_pairs"); }
}  // namespace pynas::cuda
