"""Stochastic depth and dropout of a network while it is retrained; both are taken out again afterwards."""

from __future__ import annotations

import re
import warnings
from contextlib import ExitStack
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from timm.layers import DropPath
from timm.models.resnest import ResNestBottleneck
from torch import nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

Place = tuple[nn.Module, str]


def regularise(model: nn.Module, drop: float, drop_path: float) -> ExitStack:
    """Give a network dropout before its classifier and stochastic depth in its residual branches.

    The names and values of its state do not change, nor its outputs in evaluation mode. Closing the returned stack takes
    both out again.

    drop: probability of dropout, of the input of the last linear layer. drop_path: probability that the last residual
        layer's branches are dropped, for each image by itself; it rises linearly from 0 in the first one (Huang et al.,
        ECCV 2016).

    Warns where the network has no place for one of them.
    """
    undo = ExitStack()
    layers = residual_layers(model)
    if drop_path and not layers:
        _warn("residual branches", f"stochastic depth of {drop_path}")
    rates = np.linspace(0, drop_path, len(layers)).tolist() if len(layers) > 1 else [drop_path]
    for places, rate in zip(layers, rates):
        for owner, name in places:
            _set_drop_path(owner, name, rate, undo)
    if not _set_dropout(model, drop, undo) and drop:
        _warn("a linear classifier", f"dropout of {drop}")
    return undo


def residual_layers(model: nn.Module) -> list[list[Place]]:
    """Places of stochastic depth, (module, attribute), of each residual layer of a network, in the order of its modules.

    Places are modules of stochastic depth, timm's or torchvision's, and attributes `drop_path`, `drop_path1`, ... that are
    None or identities: timm's blocks and the layers of `pynas.nn` have them where they have a residual branch.
    """
    layers = []
    for part in model.modules():
        if isinstance(part, ResNestBottleneck):
            names = ["bn3"]  # ends the branch; timm runs `drop_path` on the input of the shortcut here
        elif getattr(part, "has_skip", True) and getattr(part, "use_res_connect", True):
            names = [name for name, value in {**vars(part), **part._modules}.items() if _is_place(name, value)]
        else:  # a block of timm's or torchvision's EfficientNet without a shortcut
            names = []
        if names:
            layers.append([(part, name) for name in names])
    return layers


def _is_place(name: str, value: Any) -> bool:
    if isinstance(value, (DropPath, StochasticDepth)):
        return True
    return re.fullmatch(r"drop_path\d*", name) is not None and (value is None or isinstance(value, nn.Identity))


def _set_drop_path(owner: nn.Module, name: str, rate: float, undo: ExitStack) -> None:
    """Set the rate of a place; where it has no stochastic depth yet, put timm's in."""
    value = getattr(owner, name)
    if isinstance(value, (DropPath, StochasticDepth)):
        attribute = "drop_prob" if isinstance(value, DropPath) else "p"
        undo.callback(setattr, value, attribute, getattr(value, attribute))
        setattr(value, attribute, rate)
    else:
        undo.callback(setattr, owner, name, value)
        after = DropPath(rate).train(owner.training)
        empty = value is None or isinstance(value, nn.Identity)
        setattr(owner, name, after if empty else nn.Sequential(value, after))


def _set_dropout(model: nn.Module, rate: float, undo: ExitStack) -> bool:
    """Set the rate of the dropout before the classifier, or put one there; return whether there is a place for it."""
    leaves = [part for part in model.modules() if not list(part.children())]
    classifier = next((part for part in reversed(leaves) if isinstance(part, nn.Linear)), None)
    around = takewhile(lambda part: part is classifier or not list(part.parameters()), reversed(leaves))
    dropout = next((part for part in around if isinstance(part, nn.Dropout)), None)
    if dropout is not None:
        undo.callback(setattr, dropout, "p", dropout.p)
        dropout.p = rate
    elif classifier is not None and rate:
        undo.callback(classifier.register_forward_pre_hook(_Dropout(rate)).remove)
    return dropout is not None or classifier is not None


class _Dropout:
    """Forward pre-hook that drops features of a layer's input in training."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return functional.dropout(inputs[0], self.rate, layer.training)


def _warn(places: str, option: str) -> None:
    warnings.warn(f"[retrain] expected {places} for the recipe's {option}, got none in the network: it trains without",
                  stacklevel=4)  # fmt: skip
