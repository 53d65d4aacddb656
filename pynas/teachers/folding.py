"""Batch norms with stored statistics folded into the convolutions before them, for modules that only run forward."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pynas.nn.hooks import hooked
from pynas.ops import _library as native
from pynas.rating.copies import private_copy
from pynas.rating.tracing import trace

_CONVOLUTIONS, _NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


class Folding:
    """The copy of a module in evaluation mode with folded batch norms, which is made again when a weight changes.

    The copy shares all other weights. Its outputs, and those of the modules in `taps`, are the module's to rounding.
    """

    def __init__(self, taps: Sequence[str]) -> None:
        self._taps = tuple(taps)
        self._state: object = None
        self._folded = nn.Module()

    def __call__(self, module: nn.Module) -> nn.Module:
        """Return the module's copy; the module itself where no norm can be folded, or where something watches it."""
        tensors = list(chain(module.parameters(), module.buffers()))
        if (
            not tensors
            or not native.unwatched(tensors[0])
            or any(tensor.is_inference() for tensor in tensors)
            or any(part.training or hooked(part) for part in module.modules())
        ):
            return module
        state = [id(module), *((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors)]
        if state != self._state:
            self._state, self._folded = state, fold_norms(module, self._taps)
        return self._folded


def fold_norms(module: nn.Module, taps: Sequence[str] = ()) -> nn.Module:
    """Return a copy of a module with its batch norms folded into convolutions; the module itself where there are none.

    A norm is folded where symbolic tracing shows that a convolution runs once, its output goes to this norm alone, and no module
    of `taps` gives that output (Jacob et al., CVPR 2018, section 3.2).
    """
    pairs = _pairs(module, taps) if any(type(part) in _NORMS for part in module.modules()) else []
    if not pairs:
        return module
    folded = private_copy(module)
    for conv_name, norm_name in pairs:
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        after = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        folded.set_submodule(norm_name, after)
    return folded.requires_grad_(False)


def _pairs(module: nn.Module, taps: Sequence[str]) -> list[tuple[str, str]]:
    """Names of the convolutions and norms to fold."""
    parameters = inspect.signature(module.forward).parameters.values()
    fixed = {each.name: each.default for each in parameters if each.default is not each.empty}
    traced = trace(private_copy(module), fixed, (*_NORMS, *_CONVOLUTIONS))
    if traced is None:
        return []
    names = [(name, id(part)) for name, part in module.named_modules(remove_duplicate=False)]
    places = Counter(part for _, part in names)
    used = Counter(node.target for node in traced.graph.nodes if node.op in ("call_module", "get_attr"))
    alone = {name for name, part in names if places[part] == 1 and used[name] == 1}
    own = {str(node.target).rpartition(".")[0] for node in traced.graph.nodes if node.op == "get_attr"}
    found = []
    for node in traced.graph.nodes:
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 and not node.kwargs else None
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = str(before.target), str(node.target)
        if (
            {conv, norm} <= alone - own
            and _fit(module.get_submodule(conv), module.get_submodule(norm))
            and all(_inside(conv, tap) <= _inside(norm, tap) for tap in taps)
        ):
            found.append((conv, norm))
    return found


def _fit(conv: nn.Module, norm: nn.Module) -> bool:
    return type(conv) in _CONVOLUTIONS and type(norm) in _NORMS and norm.running_mean is not None


def _inside(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")
