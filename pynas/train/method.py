"""The protocol of all methods: what the training loop asks of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MethodType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from pynas.errors import InputError

T = TypeVar("T")


class Method(Protocol):
    """A method is an `nn.Module` with these members; `pynas.fit` needs nothing else.

    Define `optimizer`, `rate_factor` and `training_step`; the other hooks do nothing by default, and `trained_state` keeps
    everything. Name `Method` as the second base of your class, `class Mine(nn.Module, Method)`, for its types.

    All randomness comes from the argument `rng` and from the generators of torch, `random` and numpy, which the loop seeds
    for every step. A step therefore depends on the weights, the batch and its number alone, and a resumed run repeats the
    one that was killed. Several processes get the same seeds, so that they draw the same paths and drop the same layers;
    only a GPU's own generator, as of dropout's masks there, differs by process.

    net: the supernet. scaler: the `torch.amp.GradScaler` that `training_step` scales its losses by, None for no scaling.
    trained_blocks: the blocks that this process trains. None where the blocks depend on each other; a method whose blocks
        learn independently sets a range of all its blocks, and `fit(..., spread="blocks")` gives every process its share.
    sync_batch_norm: whether batch norms of several processes, each with a GPU, normalise the whole batch, not each its share
        (torch.nn.SyncBatchNorm).
    reduce: what a `training_step` gives to `backward` in a weight's last backward pass, None where nothing is to be sent yet;
    gradients without are sent after the step.
    """

    net: Any
    scaler: torch.amp.GradScaler | None = None
    trained_blocks: Collection[int] | None = None
    sync_batch_norm: bool = False
    reduce: Callable[[torch.Tensor], None] | None = None

    def prepare(self, batches: Iterable[tuple[Any, torch.Tensor]]) -> None:
        """Fit what stays fixed during training, on training batches; called before the first step of a fresh run."""
        return None

    def optimizer(self) -> torch.optim.Optimizer:
        """Return an optimizer over all trained parameters, its groups at their starting learning rates."""
        raise NotImplementedError

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of the starting learning rates after `progress` of `epochs` epochs."""
        raise NotImplementedError

    def training_step(self, images: Any, labels: torch.Tensor, rng: np.random.Generator) -> Mapping[str, torch.Tensor]:
        """Run forward and backward for one batch, and return the detached losses by name.

        images: `[B, 3, H, W]`, or a list of such views. Gradients add up: `fit(..., accumulate=N)` calls this for N batches
        before a step of the optimizer.
        """
        raise NotImplementedError

    def before_step(self, progress: float, epochs: int, optimizer: torch.optim.Optimizer) -> None:
        """Begin a new stage of the training where one is due; called before every step of the optimizer."""
        return None

    def after_step(self, progress: float, epochs: int) -> None:
        """Update moving averages of weights; called after every step of the optimizer."""
        return None

    def finished(self) -> bool:
        """Whether the training ends before its last step; asked before every step, and alike in all processes."""
        return False

    def fold(self, model: torch.nn.Module) -> bool:
        """Take up in a network, taken out of the trained net, what was trained around its blocks, in place.

        Returns False where the network cannot take it up.
        """
        return True

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that training changes, by their names in the state dict; a checkpoint keeps these.

        A shared tensor stands once. A method with a frozen teacher leaves the teacher's tensors out.
        """
        return unshared_state(self)  # type: ignore[arg-type]

    def block_state(self, block: int) -> dict[str, torch.Tensor]:
        """Return the part of `trained_state` that is trained with a block; needed for `trained_blocks` only."""
        raise InputError(f"[fit] expected a method with block_state, got {type(self).__name__}; use spread='data'")


def backward(
    loss: torch.Tensor,
    scaler: torch.amp.GradScaler | None = None,
    reduce: Callable[[torch.Tensor], None] | None = None,
) -> None:
    """Add a loss's gradients, scaled by `scaler` if any; a loss of paths without weights (skip, pool, zero) has none.

    reduce: the method's, in the last backward pass of a `training_step` that reaches a weight, so that its gradient travels to
    the other processes while the pass runs.
    """
    if reduce is not None:
        reduce(loss)
    if loss.requires_grad:
        (loss if scaler is None else scaler.scale(loss)).backward()


def with_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Yield each item, and whether it is the last one."""
    before: list[T] = []
    for item in items:
        if before:
            yield before.pop(), False
        before.append(item)
    if before:
        yield before.pop(), True


def complete(method: Any) -> None:
    """Give a method without `Method` as its base the hooks that it does not define.

    Raises:
        InputError: a method that lacks a member for which there is no default.
    """
    if missing := [name for name in ("optimizer", "rate_factor", "training_step") if not hasattr(method, name)]:
        raise InputError(f"[fit] expected a method with {', '.join(missing)}, got {type(method).__name__} without; define "
                         "the members of pynas.train.Method")  # fmt: skip
    for name, default in vars(Method).items():
        if not name.startswith("_") and not hasattr(method, name):
            setattr(method, name, MethodType(default, method) if callable(default) else default)


def unshared_state(module: torch.nn.Module, *without: str) -> dict[str, torch.Tensor]:
    """State dict of a module in which a tensor of several names stands once, under the first.

    without: prefixes of the names to leave out.
    """
    state, seen = {}, set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen and not name.startswith(without):
            state[name] = value.detach()
        seen.add(id(value))
    return state


def with_prefixes(state: Mapping[str, torch.Tensor], *prefixes: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with one of the prefixes."""
    return {name: value for name, value in state.items() if name.startswith(prefixes)}
