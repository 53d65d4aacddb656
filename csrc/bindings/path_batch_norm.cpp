#include "common/path_batch_norm.h"

#include "bindings/binding.h"

namespace pynas {

void bind_path_batch_norm(py::module_& module) {
  module.def(
      "path_batch_norm",
      [](Pointer x, Pointer residual, Pointer weight, Pointer bias, Pointer mean, Pointer var, Pointer y,
         Pointer partial, int64_t paths, int64_t batch, int64_t channels, int64_t size, int64_t chunk, double eps,
         bool channels_last, bool statistics_given, int activation, int dtype, int threads, Stream stream) {
        const PathBatchNormArgs args{x, residual, weight, bias, mean, var, y, partial, paths, batch, channels, size,
                                     chunk, eps, channels_last, statistics_given,
                                     static_cast<Activation>(activation), static_cast<DType>(dtype), threads};
        stream ? cuda::path_batch_norm(args, stream.handle()) : cpu::path_batch_norm(args);
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace pynas
