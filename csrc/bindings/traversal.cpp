#include "common/traversal.h"

#include "bindings/binding.h"

namespace pynas {

void bind_traversal(py::module_& module) {
  module.def(
      "traverse",
      [](Pointer offsets, Pointer losses, Pointer costs, Pointer limits, Pointer state_in, Pointer state_out,
         Pointer indices, Pointer counts, Pointer multipliers, int64_t block_count, int64_t limit_count, int64_t states,
         int64_t top_k, int64_t longest, int threads, Stream) {
        cpu::traverse({offsets, losses, costs, limits, state_in, state_out, indices, counts, multipliers, block_count,
                       limit_count, states, top_k, longest, threads});
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace pynas
