#include "common/queue_nce.h"

#include "bindings/binding.h"

namespace pynas {

void bind_queue_nce(py::module_& module) {
  module.def(
      "queue_nce",
      [](Pointer logits, Pointer maximum, Pointer total, Pointer accumulated, int64_t batch, int64_t chunk,
         int64_t size, int dtype, int threads, Stream stream) {
        const QueueNceArgs args{logits, maximum, total, accumulated, batch, chunk, size, static_cast<DType>(dtype),
                                threads};
        stream ? cuda::queue_nce(args, stream.handle()) : cpu::queue_nce(args);
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace pynas
