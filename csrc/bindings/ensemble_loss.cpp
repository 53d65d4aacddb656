#include "common/ensemble_loss.h"

#include "bindings/binding.h"

namespace pynas {

void bind_ensemble_loss(py::module_& module) {
  module.def(
      "ensemble_loss",
      [](Pointer online, Pointer target, Pointer loss, Pointer mean, Pointer inverse, Pointer along, Pointer distance,
         int64_t paths, int64_t batch, int64_t size, bool normalize, bool renormalize, int dtype, int threads,
         Stream stream) {
        const EnsembleLossArgs args{online,
                                    target,
                                    loss,
                                    mean,
                                    inverse,
                                    along,
                                    distance,
                                    paths,
                                    batch,
                                    size,
                                    normalize,
                                    renormalize,
                                    static_cast<DType>(dtype),
                                    threads};
        stream ? cuda::ensemble_loss(args, stream.handle()) : cpu::ensemble_loss(args);
      },
      py::call_guard<py::gil_scoped_release>());
  module.def(
      "ensemble_loss_backward",
      [](Pointer gradient, Pointer online, Pointer mean, Pointer inverse, Pointer along, Pointer online_gradient,
         int64_t paths, int64_t batch, int64_t size, int dtype, int threads, Stream stream) {
        const EnsembleLossBackwardArgs args{gradient,        online, mean,  inverse, along,
                                            online_gradient, paths,  batch, size,    static_cast<DType>(dtype),
                                            threads};
        stream ? cuda::ensemble_loss_backward(args, stream.handle()) : cpu::ensemble_loss_backward(args);
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace pynas
