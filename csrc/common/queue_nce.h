// One step of a streaming softmax over a queue (Pi-NAS eq. 4): the logits of the next chunk of keys join what is known
// of each row, its maximum and its sum of exponentials about that maximum, and become exponentials in place.
//
// `accumulated` (exponential-weighted sum of keys so far) is brought to the new maximum, so that adding
// exponentials @ chunk to it makes it right again.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace pynas {

// All of dtype, which is float32 or float64.
struct QueueNceArgs {
  void* logits;       // [B, C], exponentials on return
  void* maximum;      // [B]
  void* total;        // [B]
  void* accumulated;  // [B, D], or null
  int64_t batch;      // B
  int64_t chunk;      // C
  int64_t size;       // D
  DType dtype;
  int threads;
};

namespace cuda {
void queue_nce(const QueueNceArgs& args, void* stream);
}

}  // namespace pynas

PYNAS_CPU_KERNEL(queue_nce, QueueNceArgs)
