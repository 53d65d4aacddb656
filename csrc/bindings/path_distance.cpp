#include "common/path_distance.h"

#include "bindings/binding.h"

namespace pynas {

void bind_path_distance(py::module_& module) {
  module.def(
      "path_distance",
      [](Pointer outputs, Pointer target, Pointer partial, Pointer moments, Pointer distances, int64_t paths,
         int64_t batch, int64_t size, int64_t chunk, int kind, int dtype, int threads, Stream stream) {
        const PathDistanceArgs args{outputs, target, partial, moments, distances, paths, batch, size, chunk,
                                    static_cast<PathDistanceKind>(kind), static_cast<DType>(dtype), threads};
        stream ? cuda::path_distance(args, stream.handle()) : cpu::path_distance(args);
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace pynas
