#include "common/queue_nce.h"

#include "common/error.h"

namespace pynas::cuda {
void queue_nce(const QueueNceArgs&, void*) { no_cuda("queue_nce"); }
}  // namespace pynas::cuda
