"""Costs of the candidates of a model's units, for one sample of the example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.calls import Call
from pynas.compress.cuts import Cut, Parts
from pynas.costs import Costs
from pynas.costs.latency import time_modules
from pynas.costs.operators import counting
from pynas.runtimes import RUNTIMES, Workload
from pynas.spaces import Space
from pynas.supernets.shapes import tensors_in

Values = dict[str, float]
Block = Sequence[tuple[Parts, Sequence[Cut]]]


def count_costs(
    model: nn.Module,
    call: Call,
    blocks: Sequence[Block],
    space: Space,
    latency: bool | Workload = False,
    repeats: int = 20,
    kv: tuple[int, int] | None = None,
) -> Costs:
    """Return the costs of every candidate of a supernet of units, and of the rest of the model.

    `params`: parameters. `non_embedding_params`: those outside of `nn.Embedding`, where the model has some. `madds`: multiply-adds
    for one sample of the example, of its length or image size. `madds_per_token`: these over the length, where the model takes
    token ids `[B, T]`. `latency`: ms for a batch, each unit alone; the median of several runs. `kv_bytes`: bytes of the keys and
    values that a decoder keeps. `metadata["reference"]` has the costs of the model as it is, which shares such as "60%" refer to;
    `metadata` also names the runtime, the device and the batch size.

    blocks: by block, the parts of each unit and its candidates, the unit as it is first. latency: measure it too, in a workload;
    True for one sample in torch, on the model's device. repeats: timed runs of each candidate. kv: length in tokens and batch
    size, for `kv_bytes`.

    Raises:
        InputError: a unit that the workload's runtime does not take; the message names it and its operator.
    """
    workload = latency if isinstance(latency, Workload) else Workload(device=call.tensors[0].device)
    timed = workload if latency else None
    values = [[_unit(parts, cuts, timed, repeats, kv) for parts, cuts in block] for block in blocks]
    whole = _count(model, call)
    if whole["non_embedding_params"] == whole["params"]:
        del whole["non_embedding_params"]
    if latency:
        first = next(number for number, leaf in enumerate(call.leaves) if isinstance(leaf, Tensor))
        (whole["latency"],) = _times(
            {"the model": model}, call, first, lambda y: next(tensors_in(y)), workload, repeats
        )
    if kv is not None:
        whole["kv_bytes"] = sum(_kept_bytes(parts, Cut(), *kv) for block in blocks for parts, _ in block)
    tokens = next((x.shape[1] for x in call.tensors if x.ndim == 2 and not x.is_floating_point()), None)
    _share_out(values, blocks, whole)
    tables: dict[str, list[list[np.ndarray]]] = {name: [] for name in whole}
    rest = dict(whole)
    for layers in values:
        for name in whole:
            tables[name].append([_outer_sum([np.array([each[name] for each in layer]) for layer in layers])])
            rest[name] -= sum(layer[0][name] for layer in layers)
    if tokens is not None:
        tables["madds_per_token"] = [[table / tokens for table in cells] for cells in tables["madds"]]
        rest["madds_per_token"], whole["madds_per_token"] = rest["madds"] / tokens, whole["madds"] / tokens
    device = f"{workload.device_name}, in {RUNTIMES[workload.runtime].title}"
    return Costs(tables, rest, {**workload.metadata, "device": device, "reference": whole}, space=space)


def _share_out(values: Sequence[Sequence[Sequence[Values]]], blocks: Sequence[Block], whole: Values) -> None:
    """Let the units as they are cost no more than the whole model, in place.

    Parameters that several units share count to the rest of the model. Times of units alone that add up to more than the
    model's are scaled to it.
    """
    units = [parts.unit.module for block in blocks for parts, _ in block]
    holders = Counter(id(p) for unit in units for p in unit.parameters())
    layers = [layer for block in values for layer in block]
    for unit, layer in zip(units, layers):
        shared = sum(p.numel() for p in unit.parameters() if holders[id(p)] > 1)
        for name in ("params", "non_embedding_params"):
            layer[0][name] -= shared
    if "latency" in whole:
        factor = min(1.0, whole["latency"] / sum(layer[0]["latency"] for layer in layers))
        for each in (each for layer in layers for each in layer):
            each["latency"] *= factor


def _unit(
    parts: Parts, cuts: Sequence[Cut], workload: Workload | None, repeats: int, kv: tuple[int, int] | None
) -> list[Values]:
    """Return the costs of a unit's candidates; workload: of the latency, None for none."""
    unit, values, modules = parts.unit, list[Values](), dict[str, nn.Module]()
    for cut in cuts:
        if cut.left_out:
            values.append({"params": 0, "non_embedding_params": 0, "madds": 0})
        else:
            module = unit.module if cut == Cut() else parts.cut(parts.sizes(cut))
            values.append(_count(module, unit.call))
            if workload is not None:
                modules[f"the unit {unit.name}, {cut}"] = module
    if workload is not None:
        times = iter(_times(modules, unit.call, unit.entry, unit.pick, workload, repeats))
        for value, cut in zip(values, cuts):
            value["latency"] = 0.0 if cut.left_out else next(times)
    if kv is not None:
        for value, cut in zip(values, cuts):
            value["kv_bytes"] = 0 if cut.left_out else _kept_bytes(parts, cut, *kv)
    return values


def _count(module: nn.Module, call: Call) -> Values:
    one = call.head(1)
    with torch.no_grad(), counting() as counter:
        one.mapped(torch.clone)(module)
    params = sum(p.numel() for p in module.parameters())
    embeddings = {p for part in module.modules() if isinstance(part, nn.Embedding) for p in part.parameters()}
    return {
        "params": params,
        "non_embedding_params": params - sum(p.numel() for p in embeddings),
        "madds": counter.madds,
    }


class _Alone(nn.Module):
    """A module as a function of one tensor of its call, that gives one tensor; the other arguments are constants."""

    def __init__(self, module: nn.Module, call: Call, entry: int, pick: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.module = module
        self._call, self._entry, self._pick = call, entry, pick

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output for other values of the tensor."""
        if len(self._call.leaves) == len(self._call.args) == 1:
            output = self.module(x)
        else:
            leaves = self._call.leaves
            leaves[self._entry] = x
            output = self._call.replaced(leaves)(self.module)
        return output if isinstance(output, Tensor) else self._pick(output)


def _times(
    modules: Mapping[str, nn.Module],
    call: Call,
    entry: int,
    pick: Callable[[Any], Tensor],
    workload: Workload,
    repeats: int,
) -> list[float]:
    """Return the ms of modules by name for a batch of the call's first sample; entry, pick: their tensor, in and out."""
    samples, count = call.samples, workload.batch_size
    batch = call.mapped(
        lambda x: (torch.cat([x[:1]] * count) if x.ndim and len(x) == samples else x).detach().to(workload.device)
    )
    alone = [_Alone(module, batch, entry, pick) for module in modules.values()]
    timings = time_modules(alone, [batch.leaves[entry]] * len(alone), workload, [*modules], repeats, warm_up=3)
    return [timing.median for timing in timings]


def _kept_bytes(parts: Parts, cut: Cut, length: int, batch: int) -> int:
    size = next(parts.unit.module.parameters()).element_size()
    sizes = parts.sizes(cut)
    return sum(2 * sizes[f"heads {h.module}"] * h.size * length * batch * size for h in parts.heads)


def _outer_sum(layers: Sequence[np.ndarray]) -> np.ndarray:
    total = layers[0]
    for values in layers[1:]:
        total = np.add.outer(total, values)
    return total
