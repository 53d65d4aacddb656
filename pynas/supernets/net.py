"""The protocol of all supernets: the members that training, rating, counting and export use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from pynas.errors import InputError
from pynas.spaces import Architecture, Choice, Space
from pynas.supernets.shapes import Shape

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
# Position of a module in a net: ("stem",), ("head",) or ("part_3",), with its width where it has several, ("head", 192);
# for a candidate (block, cell, layer, candidate).
Place = tuple
# Called with a module, the shape of its input (without the batch axis) and its place; returns a value of the module and the
# shape of its output.
Visitor = Callable[[nn.Module, Shape, Place], tuple[T, Shape]]


@contextmanager
def located(place: Place, where: str) -> Iterator[None]:
    """Name a module's place in the errors about it; where: stage to name."""
    try:
        yield
    except InputError as error:
        text = re.sub(r"^\[\w+\] ", "", str(error))
        raise InputError(f"[{where}] {text} (in {place_name(place)})") from (error.__cause__ or error)


def place_name(place: Place) -> str:
    """Describe a place in words: "the stem", "candidate 0 of layer 1 of cell 0 of block 2"."""
    if isinstance(place[0], str):
        return " ".join(["the", place[0].replace("_", " "), *(f"of {at}" for at in place[1:])])
    return " of ".join(f"{name} {at}" for name, at in zip(("candidate", "layer", "cell", "block"), reversed(place)))


class Walk(Protocol[T_co]):
    """Values of all modules of a net, to be summed along its paths."""

    def fixed(self, value: Callable[[T_co], float]) -> float:
        """Sum of a value over the modules that every architecture runs."""

    def tables(self, value: Callable[[T_co], float]) -> list[list[Any]]:
        """Sum of a value along every path, `[block][cell]` arrays `[c_1, ..., c_L]`; 0 where a path is not allowed."""

    def placed(self) -> Iterator[tuple[T_co, Place]]:
        """A value of every module with its place, whatever the shapes of its input."""


class Net(Protocol):
    """A supernet: an `nn.Module` that holds the weights of all architectures of `space`."""

    space: Space

    @property
    def classifier(self) -> nn.Linear:
        """Last layer of the largest architecture.

        Raises:
            InputError: a head without a classifier.
        """

    def layers(self, block: int, cell: int) -> list[list[nn.Module]]:
        """Candidates of a cell, `[layer][candidate]`, as `pynas.rate` takes them.

        Raises:
            InputError: a net whose candidates do not run one layer after the other (NAS-Bench-201's run on a graph).
        """

    def path(self, block: int, choice: Choice) -> list[nn.Module]:
        """Modules that a choice of a block runs, in their order."""

    def enter(self, images: torch.Tensor, choice: Choice | None = None) -> torch.Tensor:
        """Input of the first block: the stem's output for images `[B, 3, H, W]`.

        choice: the first block's choice, where the stem's width depends on it; None for the widest.
        """

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """Logits `[B, classes]` of one architecture for images `[B, 3, H, W]`."""

    def features(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """Input of the classifier, `[B, D]`, for images `[B, 3, H, W]`.

        Raises:
            InputError: a head without `features`.
        """

    def modules_of(self, architecture: Architecture) -> list[nn.Module]:
        """Every module that an architecture runs, and no other."""

    def extract(self, architecture: Architecture | str, image_shape: Shape | None = None) -> nn.Module:
        """One architecture as a plain network in the net's mode, with a copy of its weights.

        image_shape: (3, H, W) of the network's images; None for squares of the space's image size.

        Raises:
            InputError: an architecture outside the space.
        """

    def visit(self, image_shape: Shape, visitor: Visitor[T]) -> Walk[T]:
        """Call `visitor` for every module on every shape of its inputs; image_shape: (3, H, W).

        A module that stands in several cells may be visited once for all of them.
        """
