"""Write a network as a Python file that imports only torch, from its traced graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import fx, nn
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.fx.graph import CodeGen

from pynas.calls import Call
from pynas.errors import InputError
from pynas.files import write_text
from pynas.runtimes.batches import difference, prepared, quiet, reason_of, traced_program
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

    The source is run and compared with the model, at several batch sizes, before it is written. Layers of torch.nn stay
    layers, so that the network can be trained further; where a model cannot be traced by layers, the file holds the
    operators of its evaluation mode. The file runs in autocast what the network runs in autocast; `torch.no_grad`,
    checkpointing and compilation inside the network are left out.

    title: first line of the file. mean, std: of the images, named in the file's docstring.

    Raises:
        InputError: a network that cannot be traced, or whose file gives other outputs.
    """
    model, images = prepared(model, image_shape)
    graph = traced(model, images)
    template = Template((files("pynas.export") / "model.py.txt").read_text(encoding="utf-8"))
    source = template.substitute(
        title=title, shape=", ".join(map(str, image_shape)), mean=_rounded(mean), std=_rounded(std),
        layers=_layers(graph), forward=_forward(graph),
    )  # fmt: skip
    weights = _checked_weights(source, model, graph, images)
    path = Path(folder) / "model.py"
    write_tensors(path.with_name("weights.safetensors"), _KIND, weights)
    write_text(path, source)
    return path


def traced(model: nn.Module, images: torch.Tensor | Call) -> fx.GraphModule:
    """Trace a model to a graph of torch.nn layers, or of torch's operators where its Python code depends on values.

    Raises:
        InputError: a model that can be traced in neither way, or that fixes the batch size.
    """
    try:
        with quiet():
            graph = fx.GraphModule(model, _Tracer().trace(model))
        if _own_names(graph):
            return graph
    except Exception:  # tracing runs the model's code, which may raise any error
        pass
    program = traced_program(model, images)
    try:
        # Parts with operators inside, as those in autocast are, become operators.
        nested = any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in program.graph.nodes)
        graph = _plain(program.run_decompositions({}) if nested else program)
    except Exception as error:
        raise InputError(f"[export] expected a network that can be traced, got {reason_of(error)}") from None
    if not _own_names(graph):
        raise InputError("[export] expected a network of torch's operators alone for a Python file, got others; write it by "
                         "write_torch_export")  # fmt: skip
    return graph


class _Tracer(fx.Tracer):
    """Tracer that keeps those layers of torch.nn whole that their `repr` rebuilds, and enters autocast where the model does."""

    def __init__(self) -> None:
        super().__init__()
        self._outside = self._autocast = _autocast()
        self._entered: list[fx.Node] = []

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a node, after nodes that leave and enter autocast where its state has changed."""
        if _autocast() != self._autocast:
            self._autocast = _autocast()
            while self._entered:
                super().create_node("call_function", _exit_autocast, (self._entered.pop(),), {})
            for device, (enabled, dtype) in self._autocast.items():
                if self._outside[device] != (enabled, dtype):
                    arguments = device, dtype, enabled, None
                    self._entered.append(super().create_node("call_function", _enter_autocast, arguments, {}))
        return super().create_node(kind, *args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("torch.nn.modules") and not list(m.children()) and _rebuilds(m)


def _autocast() -> dict[str, tuple[bool, torch.dtype]]:
    """Whether autocast is on, and its type, by device."""
    return {device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")}


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


def _plain(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return an exported graph without the nodes that check its arguments and the code that packs them."""
    exported, structure = program.module(), program.call_spec.out_spec
    assert structure is not None
    for node in list(exported.graph.nodes):
        if node.op == "call_module":
            exported.graph.erase_node(node)
        elif node.op == "output":
            node.args = (structure.unflatten(list(node.args[0])),)
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
    """Source of the graph's `forward`, indented as a method, with blocks of autocast."""
    lines, depth = [], 1
    for line in graph.graph.python_code("self").src.strip().splitlines():
        entered = re.search(r"= torch\.amp\.autocast_mode\._enter_autocast(\(.*?\))", line)
        if entered:
            line = f"    with torch.autocast{entered[1]}:"
        elif "torch.amp.autocast_mode._exit_autocast(" in line:
            depth -= 1
            continue
        lines.append("    " * depth + line if line.strip() else "")
        depth += entered is not None
    return "\n".join(lines) + "\n"


def _checked_weights(
    source: str, model: nn.Module, graph: nn.Module, images: torch.Tensor | Call
) -> dict[str, torch.Tensor]:
    """Run the source, compare its outputs with the model's, and return the tensors that it needs."""
    names: dict[str, Any] = {"__file__": "model.py", "__name__": "model"}
    try:
        exec(compile(source, "model.py", "exec"), names)
        network, state = names["Net"]().eval(), graph.state_dict()
        weights = {name: state[name] for name in network.state_dict()}
        network.load_state_dict(weights)
    except Exception as error:
        raise InputError(f"[export] expected a network whose layers can be written as source, got {reason_of(error)}; "
                         "write it by write_torch_export") from None  # fmt: skip
    difference(model, network, images, "the file")
    return weights


def _rounded(values: Sequence[float] | None) -> str:
    return "(unknown)" if values is None else str(tuple(round(value, 6) for value in values))
