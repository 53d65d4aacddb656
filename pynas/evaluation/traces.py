"""Findings of a check from paths run layer by layer: order dependence, state, random numbers, shapes, and shared work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pynas.copies import copy_module
from pynas.evaluation.plain_loop import PlainLoop, Step, run
from pynas.rating.copies import name_of
from pynas.rating.outputs import same_output
from pynas.rating.tree import Path

Layers = Sequence[Sequence[nn.Module]]


@dataclass
class Traces:
    """Runs of some paths alone: `steps[path][layer]`, for the paths that run, and lines that say what is wrong with them."""

    steps: dict[Path, list[Step]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def seconds(self) -> list[float]:
        """Mean time of a run of each layer."""
        return [sum(step.seconds for step in layer) / len(layer) for layer in zip(*self.steps.values())]


def trace_paths(layers: Layers, paths: Sequence[Path], loop: PlainLoop, tolerance: float) -> Traces:
    """Run every path on fresh copies, then all of them on one copy, there and back, and compare."""
    traces = Traces()
    for path in paths:
        try:
            traces.steps[path] = loop.trace(path)
        except Exception as error:
            traces.problems.append(f"the path {digits(path)} does not run alone: {one_line(error)}")
    random = {(d, path[d]) for path, steps in traces.steps.items() for d, step in enumerate(steps) if step.random}
    traces.problems += [f"{name(layers, *place)} draws random numbers in evaluation mode" for place in sorted(random)]
    traces.problems += _order(layers, traces, loop, tolerance)
    return traces


def _order(layers: Layers, traces: Traces, loop: PlainLoop, tolerance: float) -> list[str]:
    """Describe the candidates whose outputs depend on what ran before on the same modules."""
    used = [sorted({path[d] for path in traces.steps}) for d in range(len(layers))]
    shared = copy_module([[layer[c] for c in some] for layer, some in zip(layers, used)])
    for module in (module for layer in shared for module in layer):
        module.eval()
    found: dict[tuple[int, int], str] = {}
    for path in [*traces.steps, *reversed(traces.steps)]:
        modules = [layer[some.index(choice)] for layer, some, choice in zip(shared, used, path)]
        steps = _steps(loop, path, modules)
        depth = _first_difference(traces.steps[path], steps, tolerance)
        if depth is not None and (depth, path[depth]) not in found:
            found[depth, path[depth]] = _reason(loop, path, traces.steps[path], tolerance)
        if depth is None:  # with the times of modules that ran before
            traces.steps[path] = steps
    return [f"{name(layers, *place)} {reason}" for place, reason in sorted(found.items())]


def _reason(loop: PlainLoop, path: Path, steps: Sequence[Step], tolerance: float) -> str:
    modules = loop.copies(path)
    again = [_steps(loop, path, modules) for _ in range(2)][1]
    if _first_difference(steps, again, tolerance) is not None:
        return f"keeps state in evaluation mode: the path {digits(path)} ends differently when it runs twice"
    return (f"depends on what ran before: the path {digits(path)} ends differently after other paths; let every "
            "configuration set everything that another one may have changed")  # fmt: skip


def _steps(loop: PlainLoop, path: Path, modules: Sequence[nn.Module]) -> list[Step]:
    try:
        return loop.trace(path, modules)
    except Exception:
        return []


def _first_difference(expected: Sequence[Step], steps: Sequence[Step], tolerance: float) -> int | None:
    for depth, (a, b) in enumerate(zip(expected, steps)):
        if a.differs(b, tolerance):
            return depth
    return None if len(steps) == len(expected) else len(steps)


def shapes(traces: Traces) -> list[str]:
    """Describe the layers whose candidates put out different shapes."""
    lines = []
    for depth, column in enumerate(zip(*([*zip(path, steps)] for path, steps in traces.steps.items()))):
        by_shape: dict[tuple[int, ...], set[int]] = {}
        for choice, step in column:
            by_shape.setdefault(step.shape, set()).add(choice)
        if len(by_shape) > 1:
            listed = "; ".join(f"{list(shape)} from {_listed(some)}" for shape, some in by_shape.items())
            lines.append(f"layer {depth}: {listed}")
    return lines


@torch.no_grad()
def together(layers: Layers, path: Path, loop: PlainLoop, x: Tensor) -> Iterator[str]:
    """Describe the candidates with a `run_together`, and whether it gives what each of them gives alone.

    path: leads to the inputs of every layer, from x.
    """
    x = x.clone()
    for depth, (layer, module) in enumerate(zip(layers, loop.copies(path))):
        for kind in dict.fromkeys(map(type, layer)):
            members = [c for c, other in enumerate(layer) if type(other) is kind]
            if hasattr(kind, "run_together") and len(members) > 1:
                yield f"layer {depth}: {_listed(members)} {_verdict(kind, [layer[c] for c in members], x)}"
        x = module(x)


def _verdict(kind: type, members: Sequence[nn.Module], x: Tensor) -> str:
    copies = [module.eval() for module in copy_module(list(members))]
    try:
        outputs = list(kind.run_together(copies, x.clone()))  # type: ignore[attr-defined]
        alone = [run([module], x) for module in copies]
    except Exception as error:
        return f"do not: {kind.__name__}.run_together fails with {one_line(error)}"
    if len(outputs) == len(alone) and all(map(same_output, outputs, alone)):
        return f"by {kind.__name__}.run_together"
    return f"do not: {kind.__name__}.run_together gives other outputs than each candidate"


def name(layers: Layers, depth: int, choice: int) -> str:
    """Name of a candidate in a message."""
    return f"candidate {choice} of layer {depth} ({name_of(layers[depth][choice])})"


def digits(path: Path) -> str:
    """Short form of a path, its candidates without commas where all are digits."""
    return ("" if all(choice < 10 for choice in path) else ",").join(map(str, path))


def count_paths(paths: Sequence[object]) -> str:
    """Number of paths, in words."""
    return f"{len(paths)} path{'s' * (len(paths) != 1)}"


def one_line(error: Exception) -> str:
    """First line of an error, with its type where the message does not begin with the stage."""
    text = (str(error).splitlines() or [""])[0]
    return text if text.startswith("[") else f"{type(error).__name__}: {text}"


def _listed(some: Sequence[int] | set[int]) -> str:
    return f"candidate{'s' * (len(some) > 1)} {', '.join(map(str, sorted(some)))}"
