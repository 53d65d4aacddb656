"""Passes through a network that several proxies share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pynas.errors import InputError


def run(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Output of a network; of the first tensor where it returns several.

    Raises:
        InputError: batch norms that use the batch's statistics, of which a channel has a single value.
    """
    try:
        output = model(images)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError("[proxy] expected several values per channel for the statistics of a batch, got one: take more "
                         f"or larger images than {list(images.shape)}") from None  # fmt: skip
    return output if isinstance(output, torch.Tensor) else first_tensor(output)


def first_tensor(output: object) -> torch.Tensor:
    """First tensor of a network's or a block's output."""
    if isinstance(output, torch.Tensor):
        return output
    values = list(output.values()) if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if not tensors:
        raise InputError(f"[proxy] expected a network that returns a tensor, got {type(output).__name__}")
    return tensors[0]


@contextmanager
def hooked(
    after: Callable[..., Any] | None,
    modules: Iterable[nn.Module],
    before: Callable[..., Any] | None = None,
    with_kwargs: bool = False,
) -> Iterator[None]:
    """Call `before` ahead of the modules and `after` behind them, as torch's forward hooks do."""
    hooks = []
    try:
        for module in modules:
            if before is not None:
                hooks.append(module.register_forward_pre_hook(before, with_kwargs=with_kwargs))
            if after is not None:
                hooks.append(module.register_forward_hook(after, with_kwargs=with_kwargs))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Cross-entropy, or without labels the sum of the outputs."""
    output = run(model, images)
    return output.sum() if labels is None else F.cross_entropy(output, labels)


def total(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Sum of all elements of tensors."""
    return torch.stack([tensor.sum() for tensor in tensors]).sum()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that require gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def layers(model: nn.Module) -> list[Any]:
    """Convolutions and linear layers."""
    return [part for part in model.modules() if isinstance(part, (nn.modules.conv._ConvNd, nn.Linear))]
