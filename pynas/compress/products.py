"""Attention inside a unit, found by what it does: products of two features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pynas.compress.units import Unit
from pynas.visits import Visit, hooked, trace

_PRODUCTS = {F.scaled_dot_product_attention, F.multi_head_attention_forward, torch.matmul, Tensor.matmul, Tensor.__matmul__,
             torch.bmm, Tensor.bmm, torch.baddbmm, Tensor.baddbmm, torch.einsum}  # fmt: skip


class _Products(TorchFunctionMode):
    """Notes the module that runs whenever two features are multiplied as matrices."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights, self.running, self.found = weights, list[nn.Module](), set[nn.Module]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and self.running:
            features = [x for x in args if isinstance(x, Tensor) and x.untyped_storage()._cdata not in self._weights]
            if func is torch.einsum or len(features) > 1:
                self.found.add(self.running[-1])
        return func(*args, **(kwargs or {}))


def attention_of(unit: Unit) -> list[Visit]:
    """Return the calls of the innermost submodules of a unit that multiply two features, which every attention does."""
    call = unit.call.head(1)
    mode = _Products({x.untyped_storage()._cdata for x in unit.module.parameters()})
    handles = []
    for part in unit.module.modules():
        handles.append(part.register_forward_pre_hook(lambda part, args: mode.running.append(part)))
        handles.append(part.register_forward_hook(lambda part, args, output: mode.running.pop() and None))
    with hooked(handles), torch.no_grad(), mode:
        call.mapped(torch.clone)(unit.module)
    if not mode.found:
        return []
    visits = trace(unit.module, call)[0]
    return [visit for visit in visits if visit.module in mode.found]
