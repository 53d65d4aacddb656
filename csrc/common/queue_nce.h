// One step of a streaming softmax over a queue (Pi-NAS eq. 4). The logits of the next chunk of keys update each row's
// maximum and its sum of exponentials about that maximum, and are replaced by their exponentials.
//
// `accumulated`, the sum of keys weighted by their exponentials, is rescaled to the new maximum. The caller then adds
// exponentials @ chunk to it.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace pynas {

// All of dtype, which is float32 or float64.
struct QueueNceArgs {
  void* logits;       // [B, C], exponentials on return
  void* maximum;      // [B], of the logits so far
  void* total;        // [B], sum of exponentials so far
  void* accumulated;  // [B, D], or null
  void* slices;       // [B, ceil(C / slice), 2], workspace; the CPU needs none
  int64_t batch;      // B
  int64_t chunk;      // C
  int64_t size;       // D
  int64_t slice;      // logits of a row that a block of threads takes
  DType dtype;
  int threads;
};

namespace cuda {
void queue_nce(const QueueNceArgs& args, void* stream);
}

}  // namespace pynas

PYNAS_CPU_KERNEL(queue_nce, QueueNceArgs)
