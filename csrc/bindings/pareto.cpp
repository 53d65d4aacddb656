#include "common/pareto.h"

#include "bindings/binding.h"

namespace pynas {

void bind_pareto(py::module_& module) {
  module.def(
      "pareto_pairs",
      [](Pointer left_loss, Pointer left_cost, Pointer right_loss, Pointer right_cost, Pointer floor, Pointer pairs,
         Pointer count, int64_t lefts, int64_t rights, int64_t capacity, int64_t least_0, int64_t least_1, int shift_0,
         int shift_1, int costs, int bits, int threads, Stream stream) {
        const ParetoPairsArgs args{
            left_loss, left_cost, right_loss,         right_cost,         floor, pairs, count,  lefts,
            rights,    capacity,  {least_0, least_1}, {shift_0, shift_1}, costs, bits,  threads};
        stream ? cuda::pareto_pairs(args, stream.handle()) : cpu::pareto_pairs(args);
      },
      py::call_guard<py::gil_scoped_release>());
  module.def(
      "pareto_filter",
      [](Pointer loss, Pointer cost, Pointer kept, Pointer count, int64_t points, int costs, int, Stream) {
        cpu::pareto_filter({loss, cost, kept, count, points, costs});
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace pynas
