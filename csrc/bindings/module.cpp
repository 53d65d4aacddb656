// The extension module pynas._C. Every csrc/bindings/<stem>.cpp adds its functions through bind_<stem>.
#include <pybind11/pybind11.h>

#include "common/isa.h"
#include "common/parallel.h"

namespace py = pybind11;

namespace pynas {
#define PYNAS_BINDING(stem) void bind_##stem(py::module_& module);
#include "bindings.inc"
#undef PYNAS_BINDING
}  // namespace pynas

PYBIND11_MODULE(_C, module) {
  module.doc() = "pynas kernels: raw pointers in, nothing allocated; use them through pynas.ops.";
  module.attr("with_cuda") = static_cast<bool>(PYNAS_WITH_CUDA);
  module.def("isa", &pynas::isa_name, "Instruction set of the CPU kernels in use.");
  module.def("thread_backend", &pynas::thread_backend);
  module.def("use_openmp", &pynas::use_openmp, py::arg("path"), "Run on the threads of this loaded OpenMP runtime.");
#define PYNAS_BINDING(stem) pynas::bind_##stem(module);
#include "bindings.inc"
#undef PYNAS_BINDING
}
