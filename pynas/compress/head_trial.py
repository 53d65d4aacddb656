"""Trial of a cut: whether the code of an attention runs with fewer heads and computes what the heads left should."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pynas.copies import copy_module

# Largest difference from the expected output, as a share of its largest value, in float32.
_TOLERANCE = 1e-3


def misfit(
    part: nn.Module, reader: str, removed: Tensor, width: int, size: int, cut: Callable[[nn.Module], nn.Module]
) -> str:
    """Return why `part` cannot be cut, or "" if a cut copy computes what it should.

    Both a cut copy, and a copy whose reader gets zeros for the columns `removed`, run with random weights on random
    inputs, so no convention of the code (the order of heads, a scale, a norm over all heads) needs to be known.

    part: module that holds the whole attention. reader: name of the reader in it. width: features of the input.
    size: features of a head. cut: function that cuts a copy of `part` and returns
    what to run.
    """
    with torch.no_grad():
        try:
            whole = _random_copy(part)
            with_fewer = copy.deepcopy(whole)
        except Exception as caught:
            return f"cannot be copied to try a cut ({caught})"
        weight = whole.get_submodule(reader).get_parameter("weight")
        weight[:, removed.to(weight.device)] = 0.0
        error = ""
        for arguments in _calls(part, width, size, weight.device):
            try:
                expected = _first(whole(**arguments))
                break
            except Exception as caught:
                error = error or f"{type(caught).__name__}: {caught}"
        else:
            return f"cannot be run alone to try a cut ({error})"
        try:
            output = _first(cut(with_fewer)(**arguments))
        except Exception as caught:
            return f"does not run with fewer heads ({type(caught).__name__}: {caught})"
    if output.shape != expected.shape:
        return f"gives outputs {list(output.shape)} in place of {list(expected.shape)} with fewer heads"
    difference = (output - expected).abs().max()
    if not difference <= _TOLERANCE * expected.abs().max():
        return "computes other outputs with fewer heads"
    return ""


def _random_copy(part: nn.Module) -> nn.Module:
    """Return a copy in float32 and in evaluation, with random weights and without hooks."""
    part = copy_module(part, where="compress").float().eval()
    random = torch.Generator().manual_seed(0)
    for module in part.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):
            # Fused kernels may lack the device or float32.
            config._attn_implementation = "eager"
        for name, value in list(module._parameters.items()):
            if value is not None:
                drawn = torch.randn(value.shape, generator=random) * (
                    value[0].numel() ** -0.5 if value.dim() == 2 else 0.5
                )
                module._parameters[name] = nn.Parameter(drawn.to(value.device), requires_grad=False)
    return part


def _calls(part: nn.Module, width: int, size: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Return arguments to try in turn: tokens or an image, with rotary positions if the module takes them."""
    parameters = list(inspect.signature(part.forward).parameters.values())
    if not parameters:
        return
    first, others = parameters[0].name, parameters[1:]
    required = {p.name: None for p in others if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD}
    random = torch.Generator().manual_seed(1)
    height, length = _window(part)
    for shape in ((2, length, width), (2, height, length // height, width)):
        x = torch.randn(shape, generator=random).to(device)
        if not any(p.name == "position_embeddings" for p in others):
            yield {**required, first: x}
            continue
        angles = torch.randn((1, length, size), generator=random).to(device)
        for turns in (angles, angles[0], angles[..., : size // 2]):
            yield {**required, first: x, "position_embeddings": (turns.cos(), turns.sin())}


def _window(part: nn.Module) -> tuple[int, int]:
    """Return the height and the number of tokens of the window that the attention is built for, else of any."""
    for module in part.modules():
        window = getattr(module, "window_size", None)
        height = window[0] if isinstance(window, (list, tuple)) and len(window) == 2 else 1
        index = getattr(module, "relative_position_index", None)
        if isinstance(index, Tensor):
            return height, index.shape[0] if index.dim() == 2 else math.isqrt(index.numel())
    return 2, 6


def _first(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]
