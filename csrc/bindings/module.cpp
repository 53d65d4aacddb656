// The extension module pynas._C: every kernel, bound with the names of its arguments.
#include <stdexcept>

#include "bindings/binding.h"
#include "bindings/interrupt.h"
#include "common/depthwise_conv.h"
#include "common/ensemble_loss.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/pareto.h"
#include "common/path_batch_norm.h"
#include "common/path_distance.h"
#include "common/queue_nce.h"
#include "common/saliency_boxes.h"
#include "common/squeeze_excitation.h"
#include "common/traversal.h"

namespace pynas {
namespace {

void bind_depthwise_weight_gradient(py::module_& module) {
  using Args = DepthwiseWeightGradientArgs;
  bind(module, "depthwise_weight_gradient", cpu::depthwise_weight_gradient, PYNAS_FIELD(x), PYNAS_FIELD(y_gradient),
       PYNAS_FIELD(partial), PYNAS_FIELD(weight_gradient), PYNAS_FIELD(batch), PYNAS_FIELD(channels),
       PYNAS_FIELD(height), PYNAS_FIELD(width), PYNAS_FIELD(out_height), PYNAS_FIELD(out_width), PYNAS_FIELD(kernel),
       PYNAS_FIELD(stride), PYNAS_FIELD(padding), PYNAS_FIELD(images), PYNAS_FIELD(dtype), PYNAS_FIELD(threads));
}

void bind_ensemble_loss(py::module_& module) {
  using Args = EnsembleLossArgs;
  bind(module, "ensemble_loss", cpu::ensemble_loss, cuda::ensemble_loss, PYNAS_FIELD(online), PYNAS_FIELD(target),
       PYNAS_FIELD(loss), PYNAS_FIELD(mean), PYNAS_FIELD(inverse), PYNAS_FIELD(along), PYNAS_FIELD(distance),
       PYNAS_FIELD(paths), PYNAS_FIELD(batch), PYNAS_FIELD(size), PYNAS_FIELD(normalize), PYNAS_FIELD(renormalize),
       PYNAS_FIELD(dtype), PYNAS_FIELD(threads));
}

void bind_ensemble_loss_backward(py::module_& module) {
  using Args = EnsembleLossBackwardArgs;
  bind(module, "ensemble_loss_backward", cpu::ensemble_loss_backward, cuda::ensemble_loss_backward,
       PYNAS_FIELD(gradient), PYNAS_FIELD(online), PYNAS_FIELD(mean), PYNAS_FIELD(inverse), PYNAS_FIELD(along),
       PYNAS_FIELD(online_gradient), PYNAS_FIELD(paths), PYNAS_FIELD(batch), PYNAS_FIELD(size), PYNAS_FIELD(dtype),
       PYNAS_FIELD(threads));
}

void bind_pareto_dominated(py::module_& module) {
  using Args = ParetoDominatedArgs;
  constexpr auto no_cpu = [](const Args&) {
    throw std::invalid_argument("pareto_dominated runs on CUDA devices only");
  };
  bind(module, "pareto_dominated", +no_cpu, cuda::pareto_dominated, PYNAS_FIELD(loss), PYNAS_FIELD(sequence),
       PYNAS_FIELD(spare), PYNAS_FIELD(partial), PYNAS_FIELD(dominated), PYNAS_FIELD(points), PYNAS_FIELD(threads));
}

void bind_pareto_filter(py::module_& module) {
  using Args = ParetoFilterArgs;
  bind(module, "pareto_filter", cpu::pareto_filter, PYNAS_FIELD(loss), PYNAS_FIELD(cost), PYNAS_FIELD(kept),
       PYNAS_FIELD(count), PYNAS_FIELD(points), PYNAS_FIELD(costs));
}

void bind_pareto_pairs(py::module_& module) {
  using Args = ParetoPairsArgs;
  bind(module, "pareto_pairs", cpu::pareto_pairs, cuda::pareto_pairs, PYNAS_FIELD(left_loss), PYNAS_FIELD(left_cost),
       PYNAS_FIELD(right_loss), PYNAS_FIELD(right_cost), PYNAS_FIELD(floor), PYNAS_FIELD(pairs), PYNAS_FIELD(count),
       PYNAS_FIELD(lefts), PYNAS_FIELD(rights), PYNAS_FIELD(capacity), PYNAS_FIELD(least), PYNAS_FIELD(shift),
       PYNAS_FIELD(costs), PYNAS_FIELD(bits), PYNAS_FIELD(threads));
}

void bind_path_batch_norm(py::module_& module) {
  using Args = PathBatchNormArgs;
  bind(module, "path_batch_norm", cpu::path_batch_norm, cuda::path_batch_norm, PYNAS_FIELD(x), PYNAS_FIELD(residual),
       PYNAS_FIELD(weight), PYNAS_FIELD(bias), PYNAS_FIELD(mean), PYNAS_FIELD(var), PYNAS_FIELD(y),
       PYNAS_FIELD(running_mean), PYNAS_FIELD(running_var), PYNAS_FIELD(momentum), PYNAS_FIELD(partial),
       PYNAS_FIELD(paths), PYNAS_FIELD(batch), PYNAS_FIELD(channels), PYNAS_FIELD(size), PYNAS_FIELD(chunk),
       PYNAS_FIELD(eps), PYNAS_FIELD(channels_last), PYNAS_FIELD(statistics_given), PYNAS_FIELD(activation),
       PYNAS_FIELD(dtype), PYNAS_FIELD(threads));
}

void bind_path_batch_norm_backward(py::module_& module) {
  using Args = PathBatchNormBackwardArgs;
  bind(module, "path_batch_norm_backward", cpu::path_batch_norm_backward, cuda::path_batch_norm_backward,
       PYNAS_FIELD(x), PYNAS_FIELD(residual), PYNAS_FIELD(weight), PYNAS_FIELD(bias), PYNAS_FIELD(mean),
       PYNAS_FIELD(var), PYNAS_FIELD(y_gradient), PYNAS_FIELD(x_gradient), PYNAS_FIELD(residual_gradient),
       PYNAS_FIELD(weight_gradient), PYNAS_FIELD(bias_gradient), PYNAS_FIELD(partial), PYNAS_FIELD(paths),
       PYNAS_FIELD(batch), PYNAS_FIELD(channels), PYNAS_FIELD(size), PYNAS_FIELD(chunk), PYNAS_FIELD(eps),
       PYNAS_FIELD(channels_last), PYNAS_FIELD(statistics_given), PYNAS_FIELD(activation), PYNAS_FIELD(dtype),
       PYNAS_FIELD(threads));
}

void bind_path_distance(py::module_& module) {
  using Args = PathDistanceArgs;
  bind(module, "path_distance", cpu::path_distance, cuda::path_distance, PYNAS_FIELD(outputs), PYNAS_FIELD(target),
       PYNAS_FIELD(partial), PYNAS_FIELD(moments), PYNAS_FIELD(distances), PYNAS_FIELD(paths), PYNAS_FIELD(batch),
       PYNAS_FIELD(size), PYNAS_FIELD(chunk), PYNAS_FIELD(kind), PYNAS_FIELD(dtype), PYNAS_FIELD(threads));
}

void bind_queue_nce(py::module_& module) {
  using Args = QueueNceArgs;
  bind(module, "queue_nce", cpu::queue_nce, cuda::queue_nce, PYNAS_FIELD(logits), PYNAS_FIELD(maximum),
       PYNAS_FIELD(total), PYNAS_FIELD(accumulated), PYNAS_FIELD(slices), PYNAS_FIELD(batch), PYNAS_FIELD(chunk),
       PYNAS_FIELD(size), PYNAS_FIELD(slice), PYNAS_FIELD(dtype), PYNAS_FIELD(threads));
}

void bind_saliency_boxes(py::module_& module) {
  using Args = SaliencyBoxesArgs;
  bind(module, "saliency_boxes", cpu::saliency_boxes, cuda::saliency_boxes, PYNAS_FIELD(weight), PYNAS_FIELD(grad),
       PYNAS_FIELD(row_edges), PYNAS_FIELD(col_edges), PYNAS_FIELD(boxes), PYNAS_FIELD(partial),
       PYNAS_FIELD(weight_stride), PYNAS_FIELD(grad_stride), PYNAS_FIELD(row_cells), PYNAS_FIELD(col_cells),
       PYNAS_FIELD(strip_rows), PYNAS_FIELD(strip_cols), PYNAS_FIELD(dtype), PYNAS_FIELD(threads));
}

void bind_squeeze_excitation(py::module_& module) {
  using Args = SqueezeExcitationArgs;
  bind(module, "squeeze_excitation", cpu::squeeze_excitation, PYNAS_FIELD(x), PYNAS_FIELD(reduce_weight),
       PYNAS_FIELD(expand_weight), PYNAS_FIELD(kept), PYNAS_FIELD(reduce_bias), PYNAS_FIELD(expand_bias),
       PYNAS_FIELD(y), PYNAS_FIELD(batch), PYNAS_FIELD(channels), PYNAS_FIELD(reduced), PYNAS_FIELD(size),
       PYNAS_FIELD(channels_last), PYNAS_FIELD(dtype), PYNAS_FIELD(threads));
}

void bind_squeeze_excitation_backward(py::module_& module) {
  using Args = SqueezeExcitationBackwardArgs;
  bind(module, "squeeze_excitation_backward", cpu::squeeze_excitation_backward, PYNAS_FIELD(x),
       PYNAS_FIELD(reduce_weight), PYNAS_FIELD(expand_weight), PYNAS_FIELD(kept), PYNAS_FIELD(y_gradient),
       PYNAS_FIELD(x_gradient), PYNAS_FIELD(kept_gradient), PYNAS_FIELD(reduce_weight_gradient),
       PYNAS_FIELD(reduce_bias_gradient), PYNAS_FIELD(expand_weight_gradient), PYNAS_FIELD(expand_bias_gradient),
       PYNAS_FIELD(batch), PYNAS_FIELD(channels), PYNAS_FIELD(reduced), PYNAS_FIELD(size), PYNAS_FIELD(channels_last),
       PYNAS_FIELD(dtype), PYNAS_FIELD(threads));
}

void bind_traverse(py::module_& module) {
  using Args = TraverseArgs;
  bind(module, "traverse", cpu::traverse, cuda::traverse, PYNAS_FIELD(offsets), PYNAS_FIELD(losses), PYNAS_FIELD(costs),
       PYNAS_FIELD(limits), PYNAS_FIELD(state_in), PYNAS_FIELD(state_out), PYNAS_FIELD(indices), PYNAS_FIELD(counts),
       PYNAS_FIELD(multipliers), PYNAS_FIELD(block_count), PYNAS_FIELD(limit_count), PYNAS_FIELD(states),
       PYNAS_FIELD(top_k), PYNAS_FIELD(longest), PYNAS_FIELD(device), PYNAS_FIELD(device_sums),
       PYNAS_FIELD(device_pairs), PYNAS_FIELD(device_chunk), PYNAS_FIELD(threads));
}

}  // namespace
}  // namespace pynas

PYBIND11_MODULE(_C, module) {
  module.doc() = "The kernels of pynas.ops. They take addresses, trust every size, and allocate nothing.";
  module.attr("with_cuda") = static_cast<bool>(PYNAS_WITH_CUDA);
  module.def("isa", &pynas::isa_name, "Return the instruction set of the CPU kernels in use.");
  module.def("thread_backend", &pynas::thread_backend, "Return where the threads of the CPU kernels come from.");
  module.def("use_openmp", &pynas::use_openmp, pybind11::kw_only(), pybind11::arg("path"),
             "Run the CPU kernels on the threads of this loaded OpenMP runtime; return whether that is possible.");
  pynas::listen_to_python();
  pynas::bind_depthwise_weight_gradient(module);
  pynas::bind_ensemble_loss(module);
  pynas::bind_ensemble_loss_backward(module);
  pynas::bind_pareto_dominated(module);
  pynas::bind_pareto_filter(module);
  pynas::bind_pareto_pairs(module);
  pynas::bind_path_batch_norm(module);
  pynas::bind_path_batch_norm_backward(module);
  pynas::bind_path_distance(module);
  pynas::bind_queue_nce(module);
  pynas::bind_saliency_boxes(module);
  pynas::bind_squeeze_excitation(module);
  pynas::bind_squeeze_excitation_backward(module);
  pynas::bind_traverse(module);
}
