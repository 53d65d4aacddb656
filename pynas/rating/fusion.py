"""Fusion of a batch norm with the addition and activation after it: y = act(norm(x) + residual) in one pass.

Symbolic tracing finds the patterns in any module; a module that cannot be traced stays unfused.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pynas.rating.copies import private_copy
from pynas.rating.norms import PathNorm
from pynas.rating.tracing import has_hooks, trace

_ACTIVATION_MODULES = {nn.ReLU: "relu", nn.SiLU: "silu"}
_ACTIVATION_FUNCTIONS = {F.relu: "relu", torch.relu: "relu", F.silu: "silu"}
_ADDITIONS = (operator.add, operator.iadd, torch.add)


class FusedNorm(nn.Module):
    """A batch norm fused with the addition and activation after it."""

    def __init__(self, norm: PathNorm, activation: str | None, in_place: bool) -> None:
        super().__init__()
        self._norm, self._activation, self._in_place = norm, activation, in_place

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self._norm.apply(x, self._activation, residual, self._in_place)


def fuse(module: nn.Module, side: bool = False) -> nn.Module | None:
    """Return the module with its known batch norms fused with residual and activation; None where none is known.

    module: a private copy with its norms installed. side: whether it runs with a side input.
    """
    if not any(isinstance(part.__dict__.get("forward"), PathNorm) for part in module.modules()):
        return None
    if isinstance(module, _BatchNorm) or has_hooks(module):
        return None
    traced = trace(private_copy(module), {} if side else {"side": None})
    if traced is None:
        return None
    graph = traced.graph
    for node in list(graph.nodes):
        norm = _norm_of(node, traced)
        if norm is not None:
            _fuse_node(node, norm, traced)
    graph.eliminate_dead_code()
    graph.lint()
    traced.recompile()
    return traced


def _norm_of(node: fx.Node, traced: fx.GraphModule) -> PathNorm | None:
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    forward = traced.get_submodule(str(node.target)).__dict__.get("forward")
    return forward if isinstance(forward, PathNorm) else None


def _fuse_node(node: fx.Node, norm: PathNorm, traced: fx.GraphModule) -> None:
    source = node.args[0]
    last, activation, residual = node, None, None
    if isinstance(norm.norm, BatchNormAct2d):
        activation = _ACTIVATION_MODULES.get(type(norm.norm.act))  # type: ignore[arg-type]
        if activation is None and not isinstance(norm.norm.act, nn.Identity):
            return
    else:
        user = _only_user(last)
        if user is not None and user.op == "call_function" and user.target in _ADDITIONS and len(user.args) == 2:
            other = user.args[1] if user.args[0] is last else user.args[0]
            if isinstance(other, fx.Node) and other is not last and not user.kwargs:
                last, residual = user, other
        user = _only_user(last)
        following = _activation(user, traced)
        if user is not None and following is not None:
            last, activation = user, following
    name = f"fused_{node.name}"
    traced.add_submodule(name, FusedNorm(norm, activation, _is_fresh(source, traced)))
    with traced.graph.inserting_after(last):
        args = (source,) if residual is None else (source, residual)
        fused = traced.graph.call_module(name, args)
    last.replace_all_uses_with(fused)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _activation(node: fx.Node | None, traced: fx.GraphModule) -> str | None:
    if node is None or len(node.all_input_nodes) != 1:
        return None
    target: Any = node.target
    if node.op == "call_module":
        return _ACTIVATION_MODULES.get(type(traced.get_submodule(target)))  # type: ignore[arg-type]
    return _ACTIVATION_FUNCTIONS.get(target) if node.op == "call_function" else None


def _is_fresh(source: Any, traced: fx.GraphModule) -> bool:
    """Whether the norm's input is a convolution's output without other readers, so that it may be overwritten."""
    return (
        isinstance(source, fx.Node)
        and source.op == "call_module"
        and isinstance(traced.get_submodule(str(source.target)), _ConvNd)
        and len(source.users) == 1
    )
