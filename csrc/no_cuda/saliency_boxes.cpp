#include "common/saliency_boxes.h"

#include "common/error.h"

namespace pynas::cuda {
void saliency_boxes(const SaliencyBoxesArgs&, void*) { no_cuda("saliency_boxes"); }
}  // namespace pynas::cuda
