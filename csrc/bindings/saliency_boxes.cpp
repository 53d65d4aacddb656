#include "common/saliency_boxes.h"

#include "bindings/binding.h"

namespace pynas {

void bind_saliency_boxes(py::module_& module) {
  module.def(
      "saliency_boxes",
      [](Pointer weight, Pointer grad, Pointer row_edges, Pointer col_edges, Pointer cells, int64_t weight_stride,
         int64_t grad_stride, int64_t row_cells, int64_t col_cells, int dtype, int threads, Stream stream) {
        const SaliencyBoxesArgs args{weight,        grad,        row_edges, col_edges, cells,
                                     weight_stride, grad_stride, row_cells, col_cells, static_cast<DType>(dtype),
                                     threads};
        stream ? cuda::saliency_boxes(args, stream.handle()) : cpu::saliency_boxes(args);
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace pynas
