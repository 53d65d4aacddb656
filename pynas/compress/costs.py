"""Costs of the candidates of a model's units, for one sample of the example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pynas.calls import Call
from pynas.compress.cuts import Cut, Parts
from pynas.costs import Costs
from pynas.costs.latency import time_calls
from pynas.costs.operators import counting
from pynas.runtimes import Workload
from pynas.spaces import Space

Values = dict[str, float]
Block = Sequence[tuple[Parts, Sequence[Cut]]]


def count_costs(
    model: nn.Module,
    call: Call,
    blocks: Sequence[Block],
    space: Space,
    latency: bool = False,
    batch: int = 1,
    repeats: int = 20,
    kv: tuple[int, int] | None = None,
) -> Costs:
    """Return the costs of every candidate of a supernet of units, and of the rest of the model.

    `params`: parameters. `non_embedding_params`: those outside of `nn.Embedding`, where the model has some. `madds`: multiply-adds
    for one sample of the example, of its length or image size. `madds_per_token`: these over the length, where the model takes
    token ids `[B, T]`. `latency`: ms on the model's device for a batch, each unit alone; the median of several runs. `kv_bytes`:
    bytes of the keys and values that a decoder keeps. `metadata["reference"]` has the costs of the model as it is, which shares
    such as "60%" refer to.

    blocks: by block, the parts of each unit and its candidates, the unit as it is first. latency: measure it too. batch: samples
    of the timed batch. repeats: timed runs of each candidate. kv: length in tokens and batch size, for `kv_bytes`.
    """
    whole = _measure(model, call, latency, batch, repeats)
    if whole["non_embedding_params"] == whole["params"]:
        del whole["non_embedding_params"]
    if kv is not None:
        whole["kv_bytes"] = sum(_kept_bytes(parts, Cut(), *kv) for block in blocks for parts, _ in block)
    tokens = next((x.shape[1] for x in call.tensors if x.ndim == 2 and not x.is_floating_point()), None)
    values = [
        [[_candidate(parts, cut, latency, batch, repeats, kv) for cut in cuts] for parts, cuts in block]
        for block in blocks
    ]
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
    return Costs(
        tables, rest, {"device": Workload(device=call.tensors[0].device).device_name, "reference": whole}, space=space
    )


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


def _candidate(parts: Parts, cut: Cut, latency: bool, batch: int, repeats: int, kv: tuple[int, int] | None) -> Values:
    module = nn.Identity() if cut.left_out else parts.unit.module if cut == Cut() else parts.cut(parts.sizes(cut))
    call = parts.unit.call
    if cut.left_out:
        values: Values = {"params": 0, "non_embedding_params": 0, "madds": 0, **({"latency": 0.0} if latency else {})}
    else:
        values = _measure(module, call, latency, batch, repeats)
    if kv is not None:
        values["kv_bytes"] = 0 if cut.left_out else _kept_bytes(parts, cut, *kv)
    return values


def _measure(module: nn.Module, call: Call, latency: bool, batch: int, repeats: int) -> Values:
    one = call.head(1)
    with torch.no_grad(), counting() as counter:
        one.mapped(torch.clone)(module)
    params = sum(p.numel() for p in module.parameters())
    embeddings = {p for part in module.modules() if isinstance(part, nn.Embedding) for p in part.parameters()}
    values: Values = {"params": params, "non_embedding_params": params - sum(p.numel() for p in embeddings),
                      "madds": counter.madds}  # fmt: skip
    if latency:
        every = call.mapped(lambda x: torch.cat([x[:1]] * batch) if x.ndim and len(x) == call.samples else x)
        device = call.tensors[0].device

        @torch.inference_mode()
        def run() -> Any:
            return every(module)

        values["latency"] = time_calls([run], device, repeats, 3)[0].median
    return values


def _kept_bytes(parts: Parts, cut: Cut, length: int, batch: int) -> int:
    size = next(parts.unit.module.parameters()).element_size()
    sizes = parts.sizes(cut)
    return sum(2 * sizes[f"heads {h.module}"] * h.size * length * batch * size for h in parts.heads)


def _outer_sum(layers: Sequence[np.ndarray]) -> np.ndarray:
    total = layers[0]
    for values in layers[1:]:
        total = np.add.outer(total, values)
    return total
