"""Costs and exported networks of some paths, compared with the paths run alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pynas.costs import count, count_module
from pynas.errors import InputError
from pynas.evaluation.plain_loop import PlainLoop, run
from pynas.evaluation.traces import count_paths, digits, one_line
from pynas.rating.tree import Path
from pynas.spaces import Architecture, Cell, Space
from pynas.supernets import Supernet
from pynas.supernets.reads import elements_read

# More paths than these have no cost table: each layer is then a block of its own.
_TABLE = 1 << 16


@dataclass(frozen=True)
class Agreement:
    """One comparison of a check. ok: None where it could not be made. text: the result in words, with units."""

    ok: bool | None
    text: str


def compare_costs(net: Supernet, architectures: Sequence[Architecture], x: Tensor) -> Agreement:
    """Compare `costs.count` with the costs of the exported networks."""
    shape, seen = tuple(x.shape[1:]), []
    try:
        costs = count(net, shape)
        for architecture in architectures:
            expected, _ = count_module(net.extract(architecture, shape), shape)
            got = costs.of(architecture)
            for key, value in expected.items():
                if got[key] != value:
                    return Agreement(False, f"differ at the path {_path(architecture)}: {got[key]:,} {key} by the tables, "
                                            f"{value:,} of the exported network")  # fmt: skip
            seen.append(expected)
    except Exception as error:
        return _stopped(error)
    params, madds = (_range([each[key] for each in seen]) for key in ("params", "madds"))
    return Agreement(
        True, f"equal to those of the exported networks on {count_paths(seen)}: {params} parameters, {madds} MAdds"
    )


def compare_exports(
    net: Supernet,
    architectures: Sequence[Architecture],
    paths: Sequence[Path],
    loop: PlainLoop,
    x: Tensor,
    tolerance: float,
) -> Agreement:
    """Compare the outputs of exported networks with those of the paths alone, with stored statistics."""
    largest, unread, text = 0.0, "", ""
    try:
        for architecture, path in zip(architectures, paths):
            subnet = net.extract(architecture, tuple(x.shape[1:])).eval()
            with torch.no_grad():
                expected, got = loop.restored(loop.copies(path), x), loop.restored([subnet], x)
            difference = _difference(got, expected)
            if not difference <= tolerance:
                return Agreement(False, f"the exported network of the path {digits(path)} gives other outputs than the path "
                                        f"alone: they differ by {difference:.1e} of the largest")  # fmt: skip
            largest = max(largest, difference)
            params, hidden = sum(p.numel() for p in subnet.parameters()), _constants(subnet)
            if hidden and (reads := parameters_read(loop.copies(path), x)) > params:
                return Agreement(False, f"the exported network of the path {digits(path)} has {params:,} parameters, but the "
                                        f"path's outputs depend on {reads:,}; {hidden:,} numbers are in buffers")  # fmt: skip
            used = elements_read(subnet, tuple(x.shape[1:]))
            if used < params and not unread:
                unread = (
                    f"; the network of the path {digits(path)} has {params:,} parameters, and reads {used:,} of them"
                )
    except Exception as error:
        return _stopped(error)
    text = f"outputs as each path alone on {count_paths(paths)}: largest difference {largest:.1e} of the largest output"
    return Agreement(True, text + unread)


def supernet_of(layers: Sequence[Sequence[nn.Module]], paths: Sequence[Path]) -> tuple[Supernet, list[Architecture]]:
    """Supernet of the candidates, in which the paths are allowed; one block, or a block per layer where no table would fit."""
    numbered = [tuple(range(len(layer))) for layer in layers]
    if math.prod(map(len, layers)) <= _TABLE:
        prefixes = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
        cell = Cell(tuple(numbered), allowed=prefixes.__contains__)
        return Supernet([[layers]], space=Space("own", ((cell,),))), [Architecture.of([(0, path)]) for path in paths]
    used = [{(path[depth],) for path in paths} for depth in range(len(layers))]
    cells = [Cell((some,), allowed=chosen.__contains__) for some, chosen in zip(numbered, used)]
    net = Supernet([[[layer]] for layer in layers], space=Space("own", tuple((cell,) for cell in cells)))
    return net, [Architecture.of([(0, (choice,)) for choice in path]) for path in paths]


def parameters_read(modules: Sequence[nn.Module], x: Tensor) -> int:
    """Number of parameters on which the outputs for a few samples depend, by their gradients; 0 where there are none."""
    parameters = list({id(p): p for module in modules for p in module.parameters() if p.is_floating_point()}.values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            y = run(modules, x[:8])
            total = (y * torch.linspace(1, 2, y.numel(), device=y.device, dtype=y.dtype).view_as(y)).sum()
            found = torch.autograd.grad(total, parameters, allow_unused=True) if parameters else ()
    except RuntimeError:  # no graph: the module runs without gradients
        return 0
    return sum(int((gradient != 0).sum()) for gradient in found if gradient is not None)


def _constants(module: nn.Module) -> int:
    """Number of a module's floating-point buffers' elements, without the statistics of norms."""
    others = [b for name, b in module.named_buffers() if not name.endswith(("running_mean", "running_var"))]
    return sum(b.numel() for b in others if b.is_floating_point())


def _difference(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value."""
    if got.shape != expected.shape:
        return math.inf
    got, expected = got.double().nan_to_num(), expected.double().nan_to_num()
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def _stopped(error: Exception) -> Agreement:
    """Agreement that could not be found out: refused with a reason, or failed."""
    if isinstance(error, InputError):
        return Agreement(None, f"refused: {one_line(error)}")
    return Agreement(False, f"fails: {one_line(error)}")


def _path(architecture: Architecture) -> str:
    return digits(tuple(choice for part in architecture for choice in part.path))


def _range(values: Sequence[int]) -> str:
    low, high = (f"{value:,}" if value < 1e6 else f"{value / 1e6:,.1f} million" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
