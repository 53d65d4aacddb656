"""Blocks of any network, and the features between them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from pynas.errors import InputError
from pynas.zero_cost.passes import first_tensor, hooked, layers, run

# Containers without a forward of their own.
_LISTS = (nn.Sequential.forward, nn.Module.forward)


def block_features(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Input of the first block and output of every block, in the order in which they ran, with their graph.

    Blocks are the elements of the outermost `nn.Sequential` and `nn.ModuleList` that hold modules of several layers (of
    lists within lists: their elements); in a network without such lists its own parts of several layers; in a chain of
    single layers each convolution and linear layer with all that follows before the next. Layers of one module between
    blocks belong to the block after them.

    A feature is a map `[B, C, H, W]` or `[B, H, W, C]` of more than one position, or tokens `[B, N, C]`; other inputs and
    outputs, and the images, are none.

    Raises:
        InputError: fewer than two features.
    """
    images = images.detach().clone().requires_grad_()
    for blocks, least in _levels(model):
        features = _between(model, images, blocks)
        if len(features) >= least:
            return features
    features = _chain(model, images)
    if len(features) < 2:
        raise InputError("[proxy] expected a network of at least two blocks, each with a map of several positions or tokens "
                         f"as output, got {len(features)} such features; take larger images, or hold the blocks in an "
                         "nn.Sequential or nn.ModuleList")  # fmt: skip
    return features


def is_feature(value: object, batch: int) -> bool:
    """Whether a value is a map of more than one position, or tokens, of a batch."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.shape[:1] != (batch,):
        return False
    return value.dim() == 3 or (value.dim() == 4 and flat(value).shape[1] > 1)


def flat(feature: torch.Tensor) -> torch.Tensor:
    """Feature as `[B, positions, C]`. A map is channels-last where its axes 1 and 2, and no other, are of one size."""
    if feature.dim() == 3:
        return feature
    _, first, second, third = feature.shape
    return feature.flatten(1, 2) if first == second != third else feature.flatten(2).transpose(1, 2)


def _levels(model: nn.Module) -> Iterator[tuple[list[nn.Module], int]]:
    """Yield what may be the blocks, from the outermost modules inwards, and the least number of features to take them."""
    level = [model]
    while level:
        listed = [block for part in level for block in _elements(part)]
        if listed:
            yield listed, 2
        parts = [child for part in level for child in part.children() if list(child.children())]
        if not listed and len(parts) > 1 and not any(_elements(part) for part in parts):
            yield (
                parts,
                3,
            )  # more than one whose output is a feature: an encoder with a classifier behind it holds blocks
        level = parts


def _elements(module: nn.Module) -> list[nn.Module]:
    """Elements of a list that holds a module of several layers; none of other modules."""
    children = list(module.children())
    if type(module).forward not in _LISTS or not any(list(child.children()) for child in children):
        return []
    return [block for child in children if list(child.children()) for block in _elements(child) or [child]]


class _Recorder:
    """Features in the order in which they appeared; what runs after one gets a copy, so that nothing changes it in place."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images, self.batch = images, len(images)
        self.features: list[torch.Tensor] = []

    def before(self, _module: nn.Module, inputs: tuple) -> tuple | None:
        """Keep the input of the first block."""
        if self.features or not inputs or inputs[0] is self.images or not is_feature(inputs[0], self.batch):
            return None
        self.features.append(inputs[0])
        return inputs[0].clone(), *inputs[1:]

    def after(self, _module: nn.Module, _inputs: tuple, output: object) -> torch.Tensor | None:
        """Keep the output of a block; only a lone tensor is replaced by its copy."""
        value = output if isinstance(output, torch.Tensor) else None
        if value is None and isinstance(output, (tuple, list, dict)) and output:
            value = first_tensor(output)
        if value is None or not is_feature(value, self.batch):
            return None
        self.features.append(value)
        return value.clone() if value is output else None


def _between(model: nn.Module, images: torch.Tensor, blocks: list[nn.Module]) -> list[torch.Tensor]:
    """Input of the first of the blocks and the outputs of all."""
    recorder = _Recorder(images)
    with hooked(recorder.after, blocks, recorder.before):
        run(model, images)
    return recorder.features


def _chain(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Last feature before every convolution and linear layer, and the last of all."""
    features: list[torch.Tensor] = []
    last: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple, output: object) -> torch.Tensor | None:
        if not is_feature(output, len(images)):
            return None
        last[:] = [output]  # type: ignore[list-item]
        return last[0].clone()

    def push(*_: object) -> None:
        features.extend(last)
        last.clear()

    leaves = [part for part in model.modules() if not list(part.children())]
    with hooked(keep, leaves), hooked(None, layers(model), push):
        run(model, images)
    push()
    return features


def paired(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two features as `[B, positions, C]` of equal positions: in the finer one, those of a window become channels.

    Tokens count as a square grid; a class token, which leaves one more than a square, is left out. A grid that the windows
    do not divide is filled up with zeros.

    Raises:
        InputError: tokens that are no square.
    """
    first, second = flat(before), flat(after)
    if first.shape[1] == second.shape[1]:
        return first, second
    grids = _grid(before, first), _grid(after, second)
    rows, columns = (min(grid.shape[axis] for grid in grids) for axis in (1, 2))
    return _windows(grids[0], rows, columns), _windows(grids[1], rows, columns)


def _windows(grid: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Grid `[B, H, W, C]` cut into rows * columns windows, `[B, rows * columns, window's positions * C]`."""
    height, width = grid.shape[1:3]
    down, across = math.ceil(height / rows), math.ceil(width / columns)
    grid = nn.functional.pad(grid, (0, 0, 0, across * columns - width, 0, down * rows - height))
    windows = grid.unflatten(2, (columns, across)).unflatten(1, (rows, down)).permute(0, 1, 3, 2, 4, 5)
    return windows.flatten(3).flatten(1, 2)


def _grid(feature: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Feature as `[B, H, W, C]`; tokens: its form `[B, positions, C]`."""
    if feature.dim() == 4:
        last = feature.shape[1] == feature.shape[2] != feature.shape[3]
        return feature if last else feature.permute(0, 2, 3, 1)
    count = tokens.shape[1]
    side = math.isqrt(count)
    if side * side != count:
        tokens, side = tokens[:, 1:], math.isqrt(count - 1)
    if side * side != tokens.shape[1]:
        raise InputError(
            f"[proxy] expected blocks that keep their tokens, or tokens on a square grid, got {count} tokens"
        )
    return tokens.unflatten(1, (side, side))
