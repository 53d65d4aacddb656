#include "common/traversal.h"

#include "bindings/binding.h"

namespace pynas {

void bind_traversal(py::module_& module) {
  module.def(
      "traverse",
      [](Pointer offsets, Pointer losses, Pointer costs, Pointer limit, Pointer state_in, Pointer state_out,
         Pointer indices, Pointer counts, Pointer multipliers, int64_t blocks, int64_t limits, int64_t states,
         int64_t top_k, int64_t longest, int threads, Stream) {
        cpu::traverse(
            {blocks, limits, states, offsets, losses, costs, limit, state_in, state_out, top_k, longest, threads},
            {indices, counts, multipliers});
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace pynas
