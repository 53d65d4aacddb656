"""Write a network as a Python file that imports only torch, from its traced graph."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import CodeGen

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.files import write_text
from pynas.tensor_files import write_tensors

_KIND = "pynas.plain_weights"
# Names that the file imports.
_NAMES = {"torch", "device", "inf", "nan", "NoneType", "operator", "math"}


def write_python(
    folder: str | Path,
    model: nn.Module,
    image_shape: Sequence[int],
    *,
    title: str = "A network found by pynas.",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Path:
    """Write `model.py`, whose `load()` returns the network, and `weights.safetensors` beside it; return the path of model.py.

    The source is run and compared with the model before it is written. Layers of torch.nn stay layers, so that the network
    can be trained further; where a model cannot be traced by layers, the file holds the operators of its evaluation mode.

    title: first line of the file. mean, std: of the images, named in the file's docstring.

    Raises:
        InputError: a network that cannot be traced, or whose file gives other outputs.
    """
    model = copy_module(model).cpu().eval()
    example = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))
    graph = traced(model, example)
    template = Template((files("pynas.export") / "model.py.txt").read_text(encoding="utf-8"))
    source = template.substitute(
        title=title, shape=", ".join(map(str, image_shape)), mean=_rounded(mean), std=_rounded(std),
        layers=_layers(graph), forward=_forward(graph),
    )  # fmt: skip
    weights = _checked_weights(source, model, graph, example)
    path = Path(folder) / "model.py"
    write_tensors(path.with_name("weights.safetensors"), _KIND, weights)
    write_text(path, source)
    return path


def traced(model: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """Trace a model to a graph of torch.nn layers, or of torch's operators where its Python code depends on values.

    Raises:
        InputError: a model that can be traced in neither way.
    """
    try:
        graph = fx.GraphModule(model, _Tracer().trace(model))
        if _own_names(graph):
            return graph
    except Exception:  # tracing runs the model's code, which may raise any error
        pass
    try:
        batch = torch.export.Dim("batch")
        exported = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
        return _plain(exported.module())
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"[export] expected a network that can be traced, got {reason}") from None


class _Tracer(fx.Tracer):
    """Tracer that keeps those layers of torch.nn whole that their `repr` rebuilds."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("torch.nn.modules") and not list(m.children()) and _rebuilds(m)


def _rebuilds(layer: nn.Module) -> bool:
    """Whether evaluating the `repr` of a layer gives a layer of the same options and shapes."""
    try:
        rebuilt = eval(f"nn.{layer!r}", {"nn": nn})
    except Exception:
        return False
    # A repr may omit an option: that of AvgPool2d omits count_include_pad.
    shapes = [{name: value.shape for name, value in part.state_dict().items()} for part in (layer, rebuilt)]
    options = [
        {name: v for name, v in vars(part).items() if name[0] != "_" and name != "training"}
        for part in (layer, rebuilt)
    ]
    return repr(rebuilt) == repr(layer) and shapes[0] == shapes[1] and options[0] == options[1]


def _own_names(graph: fx.GraphModule) -> bool:
    """Whether the code of a graph uses only names that the file imports."""
    used = graph.graph.python_code("self").globals
    return {name for name in used if name not in ("fx_pytree", "pytree")} <= _NAMES


def _plain(exported: fx.GraphModule) -> fx.GraphModule:
    """Return an exported graph without the nodes that check its arguments and the code that packs them."""
    for node in list(exported.graph.nodes):
        if node.op == "call_module":
            exported.graph.erase_node(node)
        elif node.op == "output":
            (result,) = (
                fx.node.map_arg(node.args[0], lambda n: n)
                if isinstance(node.args[0], (tuple, list))
                else [node.args[0]]
            )
            node.args = (result,)
    exported.graph.set_codegen(CodeGen())
    return fx.GraphModule(exported, exported.graph)


def _layers(graph: fx.GraphModule) -> str:
    """Lines of source that build the layers, parameters and buffers that the graph uses, in its order."""
    lines, seen = [], set()
    for node in graph.graph.nodes:
        if node.op not in ("call_module", "get_attr") or node.target in seen:
            continue
        seen.add(node.target)
        part = _get(graph, node.target)
        if isinstance(part, nn.Module):
            built = f"nn.{part!r}"
        else:
            zeros = f"torch.zeros({list(part.shape)}, dtype={part.dtype})"
            built = f"nn.Parameter({zeros})" if isinstance(part, nn.Parameter) else zeros
        lines.append(f"        _place(self, {node.target!r}, {built})")
    return "\n".join(lines) + "\n"


def _get(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part)
    return root


def _forward(graph: fx.GraphModule) -> str:
    """Source of the graph's `forward`, indented as a method."""
    source = graph.graph.python_code("self").src.strip()
    return "\n".join(f"    {line}" if line.strip() else "" for line in source.splitlines()) + "\n"


def _checked_weights(source: str, model: nn.Module, graph: nn.Module, example: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run the source, compare its outputs with the model's, and return the tensors that it needs."""
    names: dict[str, Any] = {"__file__": "model.py", "__name__": "model"}
    exec(compile(source, "model.py", "exec"), names)
    network, state = names["Net"]().eval(), graph.state_dict()
    weights = {name: state[name] for name in network.state_dict()}
    network.load_state_dict(weights)
    for images in (example, example[:1]):
        check_equal(model, network(images), images, "the file")
    return weights


@torch.no_grad()
def check_equal(model: nn.Module, output: torch.Tensor, images: torch.Tensor, source: str) -> float:
    """Largest absolute difference of an output from the model's; `source` names the file in the error.

    Raises:
        InputError: a difference beyond rounding.
    """
    expected = model(images)
    difference = float((expected - output.detach()).abs().max())
    if not difference <= 1e-4 * float(expected.abs().max()) + 1e-6:
        raise InputError(
            f"[export] expected {source} to give the outputs of the network, got a difference of {difference:.2e}"
        )
    return difference


def _rounded(values: Sequence[float] | None) -> str:
    return "(unknown)" if values is None else str(tuple(round(value, 6) for value in values))
