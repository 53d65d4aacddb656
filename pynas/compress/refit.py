"""Least-squares refit: layers that read fewer channels, solved anew so that their outputs stay close to what they were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.calls import Call
from pynas.visits import Enough, hooked

# Positions of each sample that a convolution is refitted on, and columns of the largest system that is solved.
_POSITIONS = 256
_MOST_COLUMNS = 8192
# Ridge, as a share of the mean square of a column.
RIDGE = 1e-4


@dataclass(frozen=True)
class Refit:
    """A layer of a narrow unit to solve anew.

    columns: its inputs among those of the original layer; None where they are others. outputs: its outputs among those of the
    original; None for all.
    """

    name: str
    columns: Sequence[int] | None = None
    outputs: Sequence[int] | None = None


class Refitter:
    """Solves layers of smaller copies of one unit; what the copies share is computed once.

    original: the unit. calls: its arguments, from calibration inputs.
    """

    def __init__(self, original: nn.Module, calls: Sequence[Call], ridge: float = RIDGE) -> None:
        self._original, self._calls, self._ridge = original, calls, ridge
        self._known: dict[str, Moments] = {}

    @torch.no_grad()
    def refit(self, narrow: nn.Module, layers: Sequence[Refit], calls: Sequence[Call] | None = None) -> None:
        """Solve layers by ridge regression to the outputs of the original's, one after the other, in place.

        Minimises mean ||W x + b - y||^2 + ridge * v ||W||^2 over all positions, x being the input of the layer in the narrow
        unit, y the output in the original, and v the mean variance of the inputs (their mean square where there is no b). A
        layer without a bias whose output is batch-normalised is fitted to centred outputs, and the norm's mean moves with it.

        layers: in the order in which they run. calls: arguments of the narrow unit, where they are others than the original's.
        """
        for layer in layers:
            part, source = _layer(narrow, layer.name), _layer(self._original, layer.name)
            norm, before = (_norm_after(*where, self._calls[0]) for where in ((narrow, part), (self._original, source)))
            if norm is not None and before is not None:  # a refit before this one may have moved it
                mean = before.running_mean
                norm.running_mean.copy_(mean if layer.outputs is None else mean[list(layer.outputs)])  # type: ignore
            moments = None if calls is not None else self._sliced(narrow, layer)
            if moments is None:
                moments = Moments(part)
                for own, call in zip(calls or self._calls, self._calls):
                    y = _during(self._original, source, call, inputs=False)
                    moments.add(_during(narrow, part, own, inputs=True), _chosen(y, layer.outputs, part))
            moments.solve(part, self._ridge, norm)

    def _sliced(self, narrow: nn.Module, layer: Refit) -> Moments | None:
        """Moments from those of the original layer, where the narrow one's inputs are some of its inputs; else None."""
        source, part = _layer(self._original, layer.name), _layer(narrow, layer.name)
        if layer.columns is None or layer.outputs is not None or not _plain(source):
            return None
        few = self._calls[0].head(2)
        x, whole = (_during(unit, own, few, inputs=True) for unit, own in ((narrow, part), (self._original, source)))
        if (x - _chosen(whole, layer.columns, part)).abs().max() > 1e-4 * whole.abs().max():
            return None
        if layer.name not in self._known:
            moments = Moments(source)
            for call in self._calls:
                inputs = _during(self._original, source, call, inputs=True)
                moments.add(inputs, source(inputs))
            self._known[layer.name] = moments
        return self._known[layer.name].of_columns(layer.columns)


def _layer(unit: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    layer = unit.get_submodule(name)
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    return layer


def _chosen(y: Tensor, outputs: Sequence[int] | None, layer: nn.Module) -> Tensor:
    if outputs is None:
        return y
    return y.index_select(-1 if isinstance(layer, nn.Linear) else 1, torch.as_tensor(outputs, device=y.device))


def _plain(layer: nn.Module) -> bool:
    """Whether each input of a layer is one channel: a linear layer, or a convolution of 1x1 in one group."""
    return isinstance(layer, nn.Linear) or (
        getattr(layer, "kernel_size", 0) == (1, 1) and getattr(layer, "groups", 0) == 1
    )


def can_refit(layer: nn.Module) -> bool:
    """Whether a layer is a linear layer or a 2-D convolution with few enough inputs for an exact solution."""
    return isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight[0].numel() <= _MOST_COLUMNS


class Moments:
    """Sums of products of a layer's inputs and of the outputs that it should have, `[groups, columns, columns or outputs]`.

    Both count from near their means, which may be far larger than what they vary by.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        self._layer, self._rows, self._sums, self._origins = layer, 0, list[Tensor](), list[Tensor]()

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add inputs `[B, ..., inputs]` or `[B, C, H, W]`, and the outputs for them."""
        xs, ys = _rows(self._layer, x, y)
        # [rows, groups, n] -> [groups, rows, n], in float32 products that add up in float64.
        xs, ys = xs.float().transpose(0, 1), ys.float().transpose(0, 1)
        self._origins = self._origins or [xs.mean(1), ys.mean(1)]
        xs, ys = (values - origin.unsqueeze(1) for values, origin in zip((xs, ys), self._origins))
        new = [xs.mT @ xs, xs.mT @ ys, xs.sum(1), ys.sum(1)]
        self._sums = [a + b for a, b in zip(self._sums, new)] if self._sums else [part.double() for part in new]
        self._rows += xs.shape[1]

    def of_columns(self, columns: Sequence[int]) -> Moments:
        """Return the moments of some of the inputs."""
        some, (xx, xy, x, y) = Moments(self._layer), self._sums
        kept = torch.as_tensor(columns, device=xx.device)
        some._rows, some._sums = self._rows, [xx[:, kept][:, :, kept], xy[:, kept], x[:, kept], y]
        some._origins = [self._origins[0][:, kept], self._origins[1]]
        return some

    def solve(self, layer: nn.Linear | nn.Conv2d, ridge: float, norm: _BatchNorm | None) -> None:
        """Write the solution to a layer; norm: batch norm that reads its outputs, whose mean follows them."""
        xx, xy, x, y = (part / self._rows for part in self._sums)
        xx, xy = xx - x.unsqueeze(2) * x.unsqueeze(1), xy - x.unsqueeze(2) * y.unsqueeze(1)
        x, y = (mean + origin for mean, origin in zip((x, y), self._origins))
        if layer.bias is None and norm is None:
            xx, xy = xx + x.unsqueeze(2) * x.unsqueeze(1), xy + x.unsqueeze(2) * y.unsqueeze(1)
        strength = ridge * xx.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        xx.diagonal(dim1=1, dim2=2).add_(strength.unsqueeze(1))
        solution = torch.linalg.solve(xx, xy)  # [groups, columns, outputs of a group]
        layer.weight.copy_(solution.mT.reshape(layer.weight.shape))
        rest = (y - torch.einsum("gc,gco->go", x, solution)).flatten()
        if layer.bias is not None:
            layer.bias.copy_(rest)
        elif norm is not None:
            norm.running_mean.sub_(rest.to(norm.running_mean))  # type: ignore[union-attr]


def _rows(layer: nn.Linear | nn.Conv2d, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs `[rows, groups, columns]` and outputs `[rows, groups, outputs of a group]` of each position."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, 1, x.shape[-1]), y.reshape(-1, 1, y.shape[-1])
    groups = layer.groups
    patches = x if layer.kernel_size == (1, 1) and x.shape[2:] == y.shape[2:] else _patches(layer, x)
    every = y.shape[2] * y.shape[3]
    step = max(1, every // _POSITIONS)
    while math.gcd(step, y.shape[3]) > 1:  # else positions of some columns of the map alone
        step += 1
    patches, y = patches.flatten(2)[..., ::step], y.flatten(2)[..., ::step]
    return (
        patches.unflatten(1, (groups, -1)).permute(0, 3, 1, 2).flatten(0, 1),
        y.unflatten(1, (groups, -1)).permute(0, 3, 1, 2).flatten(0, 1),
    )


def _patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Inputs of each position of a convolution, `[B, groups * columns, H, W]`, with the padding that its class gives it."""
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        columns = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(x.shape[2:], layer.padding, layer.dilation, layer.kernel_size, layer.stride)
        ]
        return columns.unflatten(2, size)
    # A convolution whose weights pick one input each.
    each = layer.weight[0].numel()
    picking = torch.eye(each, dtype=x.dtype, device=x.device).view(each, *layer.weight.shape[1:])
    weight, bias = layer.weight, layer.bias
    try:
        layer.weight, layer.bias = nn.Parameter(picking.repeat(layer.groups, 1, 1, 1), False), None
        return layer(x)
    finally:
        layer.weight, layer.bias = weight, bias


def _during(unit: nn.Module, layer: nn.Module, call: Call, inputs: bool) -> Tensor:
    """Return the input or output of a layer while a unit runs; `[N, D]` of the N positions that count, where some do not."""
    seen: list[Tensor] = []

    def note(part: nn.Module, args: Any, output: Tensor) -> None:
        seen.append((args[0] if inputs else output).clone())
        raise Enough

    with hooked([layer.register_forward_hook(note)]):
        try:
            call.mapped(torch.clone)(unit)
        except Enough:
            x, kept = seen[0], call.kept
            return x if kept is None or x.ndim != 3 or x.shape[:2] != kept.shape else x[kept]
    raise AssertionError("the layer ran when the unit was examined")


def _norm_after(unit: nn.Module, layer: nn.Module, call: Call) -> _BatchNorm | None:
    """Return the batch norm that reads a layer's output as it is."""
    outputs, found = list[Tensor](), list[_BatchNorm]()
    handles = [layer.register_forward_hook(lambda part, args, output: outputs.append(output))]
    for norm in unit.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            handles.append(
                norm.register_forward_pre_hook(
                    lambda part, args: found.append(part) if any(args[0] is output for output in outputs) else None
                )
            )
    with hooked(handles):
        call.head(2).mapped(torch.clone)(unit)
    return found[0] if found else None


def importance(unit: nn.Module, readers: Iterable[tuple[str, Tensor]], calls: Sequence[Call]) -> Tensor:
    """Return the importance of hidden channels: RMS of what each adds to the outputs of its readers, if channels were independent.

    Sum over the readers' columns of a channel of mean(x^2) * ||W's columns||^2; readers: name and columns `[channels, n]`.
    """
    total: Tensor | None = None
    with torch.no_grad():
        for name, columns in readers:
            layer = unit.get_submodule(name)
            power, rows = torch.zeros(()), 0
            for call in calls:
                x = _during(unit, layer, call, inputs=True)
                x = x.reshape(-1, x.shape[-1]) if isinstance(layer, nn.Linear) else x.transpose(0, 1).flatten(1).mT
                power, rows = power + x.double().square().sum(0).cpu(), rows + len(x)
            weight = layer.get_parameter("weight").detach().double().cpu()
            norms = weight.square().flatten(2).sum(2) if weight.ndim > 2 else weight.square()
            groups = getattr(layer, "groups", 1)
            norms = norms.unflatten(0, (groups, -1)).sum(1).flatten()  # [groups, inputs of one] -> every input
            part = (power / rows * norms)[columns].sum(1)
            total = part if total is None else total + part
    assert total is not None
    return total.sqrt()


@torch.no_grad()
def estimate(model: nn.Module, calls: Sequence[Call]) -> None:
    """Estimate the statistics of a model's batch norms as the mean over batches of two samples or more, in place.

    Without such a batch they stay as they are.
    """
    calls = [call for call in calls if call.samples > 1]
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    if not calls or not norms:
        return
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for call in calls:
        call(model)
    for norm, (momentum, training) in zip(norms, before):
        norm.momentum = momentum
        norm.train(training)
