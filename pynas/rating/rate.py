"""`rate`: the score of every path of a cell made of anybody's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating import losses, norms
from pynas.rating.copies import check_layers, private_copy
from pynas.rating.engine import Engine, Visit
from pynas.rating.table import ScoreTable
from pynas.rating.tree import Node, Path, PathTree, build_tree


def rate(
    layers: Sequence[Sequence[nn.Module]],
    batches: Iterable[tuple[Tensor, Any]],
    loss: str | Callable[[Tensor, Any], Tensor] = "relative_l1",
    norm: str = "batch",
    *,
    paths: Iterable[Sequence[int]] | None = None,
    allowed: Callable[[Path], bool] | None = None,
) -> ScoreTable:
    """The loss of every path through `layers`, the mean over the batches, each weighted by its number of samples.

    Equal to running each path alone, but a prefix that several paths share is computed once. The engine works on a copy
    that shares the weights: the modules themselves are not touched.

    Args:
        layers: `layers[l][c]` is candidate c of layer l, an `nn.Module` from one tensor to one tensor.
        batches: (input `[B, ...]`, target) pairs.
        loss: "relative_l1" (DNA eq. 7; each batch is scaled by the standard deviation of that batch's target), "mse",
            "cosine", or a callable `loss(output [B, ...], target)` that gives a number. Lower is better.
        norm: what batch norm uses: "running" (stored statistics) or "batch" (the batch's own, per path). All else is in
            evaluation mode.
        paths: rate only these.
        allowed: `allowed(prefix)` is asked for every prefix and whole path; False forbids all that begin with it.

    Raises:
        InputError: candidates that do not fit each other or the target, no batch, a score that is not finite.
    """
    layers = check_layers(layers)
    tree = build_tree([len(layer) for layer in layers], paths, allowed)
    context = norms.PathContext()
    copied = private_copy(layers)
    norms.install((module for layer in copied for module in layer), norm, context)
    engine = Engine(copied, tree, context)
    scores, samples = _average(engine, tree, batches, losses.resolve(loss))
    table = np.full([len(layer) for layer in layers], np.nan)
    table[tuple(tree.paths.T)] = scores
    made_from = {"loss": loss if isinstance(loss, str) else getattr(loss, "__name__", "callable"), "norm": norm}
    return ScoreTable(table, {**made_from, "samples": samples})


def _average(
    engine: Engine, tree: PathTree, batches: Iterable[tuple[Tensor, Any]], loss: losses.PathLoss
) -> tuple[np.ndarray, int]:
    """Scores `[P]` in the tree's order, and the number of samples they are the mean of."""
    total, samples = torch.zeros(0), 0
    for batch in batches:
        x, target = check_batch(batch)
        values = torch.zeros(len(tree.paths), dtype=torch.float64, device=x.device)
        engine.run(x, _writer(values, target, loss, tree))
        _check_finite(values, tree)
        total = values * len(x) if not samples else total + values * len(x)
        samples += len(x)
    if not samples:
        raise InputError("[rate] expected at least one batch, got none")
    return (total / samples).cpu().numpy(), samples


def _writer(values: Tensor, target: Any, loss: losses.PathLoss, tree: PathTree) -> Visit:
    def visit(leaves: Sequence[Node], outputs: Tensor) -> None:
        try:
            found = loss(outputs, target, len(leaves)).to(values)
        except InputError as error:
            raise InputError(f"{error} for the path {tree.prefix(leaves[0], tree.depth)}") from error
        if leaves[-1].start - leaves[0].start == len(leaves) - 1:
            values[leaves[0].start : leaves[-1].stop] = found
        else:
            values[[leaf.start for leaf in leaves]] = found

    return visit


def check_batch(batch: Any) -> tuple[Tensor, Any]:
    """An (input, target) pair with samples in it.

    Raises:
        InputError: anything else.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise InputError(f"[rate] expected batches of (input tensor, target), got {type(batch).__name__}")
    if batch[0].ndim == 0 or not len(batch[0]):
        raise InputError(f"[rate] expected an input with samples on its first axis, got {tuple(batch[0].shape)}")
    return batch[0], batch[1]


def _check_finite(values: Tensor, tree: PathTree) -> None:
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        row = int(wrong[0])
        path = tuple(int(choice) for choice in tree.paths[row])
        raise InputError(
            f"[rate] expected finite scores, got {values[row].item()} for the path {path} "
            f"({len(wrong)} of {len(values)} paths)"
        )
