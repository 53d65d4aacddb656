#include "common/traversal.h"

#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace pynas {

void bind_traversal(py::module_& module) {
  module.def(
      "traverse",
      [](int64_t blocks, int64_t limits, int64_t states, intptr_t offsets, intptr_t losses, intptr_t costs,
         intptr_t limit, intptr_t state_in, intptr_t state_out, int64_t top_k, int threads, intptr_t indices,
         intptr_t counts, intptr_t multipliers) {
        const auto input = [](intptr_t address) { return reinterpret_cast<const int64_t*>(address); };
        py::gil_scoped_release release;
        traverse_cpu({blocks, limits, states, input(offsets), input(losses), input(costs), input(limit),
                      input(state_in), input(state_out), top_k, threads},
                     {reinterpret_cast<int64_t*>(indices), reinterpret_cast<int64_t*>(counts),
                      reinterpret_cast<double*>(multipliers)});
      },
      "Exact traversal; see csrc/common/traversal.h.");
}

}  // namespace pynas
