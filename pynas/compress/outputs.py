"""Outputs of a model that losses compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pynas.calls import Call
from pynas.errors import InputError

Pick = Callable[[Any, Call], Tensor]


def pick_output(output: Any, call: Call) -> Tensor:
    """Return the tensor of a model's output that losses compare: logits, else the last hidden state, else the first tensor.

    Positions that the call's attention mask leaves out are 0.

    Raises:
        InputError: an output without one.
    """
    if isinstance(output, Mapping):
        names = [name for name in ("logits", "last_hidden_state") if isinstance(output.get(name), Tensor)]
        output = output[names[0]] if names else tuple(output.values())
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise InputError(f"[compress] expected an output with a tensor, got {type(output).__name__}; pass pick=")
    mask = call.kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and output.ndim > 2 and mask.shape == output.shape[:2]:
        output = output * mask.view(*mask.shape, *[1] * (output.ndim - 2)).to(output.dtype)
    return output


def default_loss(model: nn.Module, call: Call, pick: Pick = pick_output) -> str:
    """Return "kl" where a model's output is logits: named so, or one vector per sample; else "cosine"."""
    with torch.no_grad():
        output = call(model)
    named = isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor)
    return "kl" if (named and pick is pick_output) or (isinstance(output, Tensor) and output.ndim == 2) else "cosine"
