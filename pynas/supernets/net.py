"""The protocol of all supernets: what training, rating, counting and export ask of a net."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from pynas.spaces import Architecture, Choice, Space

T = TypeVar("T")
Shape = tuple[int, ...]
# Called with a module, the shape of its input (without the batch) and its place in the net; returns a value of the
# module and the shape of its output. A place is ("stem",), ("head",) or (block, cell, layer, candidate).
Visitor = Callable[[nn.Module, Shape, tuple], tuple[T, Shape]]


class Walk(Protocol[T]):
    """Values of all modules of a net, to be summed along its paths."""

    def fixed(self, value: Callable[[T], float]) -> float:
        """Sum of a value over the modules that every architecture runs."""

    def tables(self, value: Callable[[T], float]) -> list[list[Any]]:
        """Sum of a value along every path, `[block][cell]` arrays `[c_1, ..., c_L]`; 0 where a path is not allowed."""


class Net(Protocol):
    """A supernet: an `nn.Module` that holds the weights of all architectures of `space`."""

    space: Space

    def layers(self, block: int, cell: int) -> list[list[nn.Module]]:
        """Candidates of a cell, `[layer][candidate]`, as `pynas.rate` takes them."""

    def path(self, block: int, choice: Choice) -> list[nn.Module]:
        """Modules that a choice of a block runs, in their order."""

    def enter(self, images: torch.Tensor, choice: Choice | None = None) -> torch.Tensor:
        """Input of the first block: the stem's output for images `[B, 3, H, W]`.

        choice: the first block's choice, where the stem's width depends on it.
        """

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """Logits `[B, classes]` of one architecture for images `[B, 3, H, W]`."""

    def features(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """Input of the classifier, `[B, D]`, for images `[B, 3, H, W]`."""

    def modules_of(self, architecture: Architecture) -> list[nn.Module]:
        """Every module that an architecture runs, and no other."""

    def extract(self, architecture: Architecture | str, image_shape: Shape | None = None) -> nn.Module:
        """One architecture as a plain network with a copy of its weights.

        image_shape: (3, H, W), where it is not the space's own.
        """

    def visit(self, image_shape: Shape, visitor: Visitor[T]) -> Walk[T]:
        """Call `visitor` for every module on every shape that it gets; image_shape: (3, H, W)."""
