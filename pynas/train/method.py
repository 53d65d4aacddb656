"""What the training loop asks of a method."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch


class Method(Protocol):
    """A method is an `nn.Module` with these members; `pynas.fit` needs nothing else.

    A class that names `Method` as its second base, `class Mine(nn.Module, Method)`, takes the hooks that it does not
    define from here: they do nothing.

    All randomness comes from the argument `rng` and from torch's generator, which the loop seeds for every step. So a step
    depends on the weights, the batch and its number alone, and a resumed run repeats the one that was killed.

    net: the supernet. scaler: the `torch.amp.GradScaler` that `training_step` scales its losses by, None for no scaling.
    trained_blocks: the blocks that this process trains, None for all; a method whose blocks learn apart from each other
        starts with a range of its blocks, and `fit(..., spread="blocks")` gives every process its share.
    """

    net: Any
    scaler: torch.amp.GradScaler | None = None
    trained_blocks: Collection[int] | None = None

    def prepare(self, batches: Iterable[tuple[Any, torch.Tensor]]) -> None:
        """Fit what is fixed before the first step of a fresh run, on training batches."""

    def optimizer(self) -> torch.optim.Optimizer:
        """Return an optimiser over all that is trained, its groups at their starting learning rates."""
        raise NotImplementedError

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of the starting learning rates, `progress` epochs into `epochs`."""
        raise NotImplementedError

    def training_step(self, images: Any, labels: torch.Tensor, rng: np.random.Generator) -> Mapping[str, torch.Tensor]:
        """Run forward and backward for one batch, and return the detached losses by name.

        images: `[B, 3, H, W]`, or a list of such views. Gradients add up: `fit(..., accumulate=N)` calls this for N batches
        before a step of the optimiser.
        """
        raise NotImplementedError

    def before_step(self, progress: float, epochs: int, optimizer: torch.optim.Optimizer) -> None:
        """Called before every step of the optimiser: here a new stage of the training may begin."""

    def after_step(self, progress: float, epochs: int) -> None:
        """Called after every step of the optimiser: here averages of weights move."""

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that training changes, by their names in the state dict; a checkpoint keeps these.

        Shared tensors stand once. A method with a frozen teacher leaves the teacher's tensors out.
        """
        return unshared_state(self)  # type: ignore[arg-type]

    def block_state(self, block: int) -> dict[str, torch.Tensor]:
        """Return the part of `trained_state` that belongs to a block (the stem belongs to the first one)."""
        raise NotImplementedError


def unshared_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State dict of a module in which tensors that have several names stand once."""
    state, seen = {}, set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            state[name] = value.detach()
        seen.add(id(value))
    return state
