"""Part of a network after one of its submodules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from pynas.calls import Call, Pick, hidden_leaf, with_leaf
from pynas.errors import InputError
from pynas.rating.copies import private_copy
from pynas.visits import hooked, trace

_turn = threading.local()


class Tail(nn.Module):
    """Part of a module after one of its submodules, the tap: from the tap's feature to the module's output.

    A private copy of the module, with the same weights, runs on blank inputs. In it the tap returns the given feature, and
    submodules that end before the tap begins return blank tensors and compute nothing. This is exact where the output
    depends on the inputs through the tap alone. Where it does not, as with masks, the copy may run on the batch's own inputs
    (`needs_side`), and only `skips` are left out.

    module: in evaluation mode. tap: name of a submodule that is called once. example: call of the module with two samples or
    more. pick: the tensor of the module's output that counts. batch_statistics: batch norm uses each batch's statistics instead
    of the stored ones. own_inputs: the copy may run on the batch's own inputs. skips: of submodules before the tap, by name, what
    runs in their place on the batch's own inputs.

    needs_side: whether the module's inputs count beyond the feature.

    Raises:
        InputError: an output that depends on more than the tap (checked on the example).
    """

    def __init__(
        self,
        module: nn.Module,
        tap: str,
        example: Call,
        pick: Pick,
        *,
        batch_statistics: bool = False,
        own_inputs: bool = False,
        skips: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        super().__init__()
        self._pick, self._call = pick, example.mapped(lambda x: x.new_zeros(()).expand(x.shape))  # of no memory
        self.needs_side, self.module = False, _copy(module, batch_statistics)
        features: list[tuple[int, Tensor]] = []
        keep = self.module.get_submodule(tap).register_forward_hook(
            lambda part, args, y: features.append(_feature(y, tap))
        )
        with torch.no_grad(), hooked([keep]):
            visits, output = trace(self.module, example, shapes_only=True)
        expected, (number, feature) = pick(output, example), features[-1]
        cut = next(visit for visit in visits if visit.name == tap)
        late = {visit.name for visit in visits if visit.end >= cut.begin}
        early = {visit.name: visit for visit in visits if visit.name not in late}
        given = {tap: lambda *args, **kwargs: with_leaf(cut.output, number, _turn.feature)}
        # What follows from the values of ids or masks, as positions of padding, would follow from blank ones wrongly.
        if len(example.tensors) == 1 and example.tensors[0].is_floating_point():
            blanks = {name: _blank(v.output) for name, v in early.items() if _has_samples(v.output, example.samples)}
            _replace(self.module, blanks | given)
            if self._goes_on(feature, expected, None):
                return
        if own_inputs:
            self.needs_side, self.module = True, _copy(module, batch_statistics)
            _replace(self.module, {name: skip for name, skip in (skips or {}).items() if name in early} | given)
            if self._goes_on(feature, expected, {"model": example.leaves}):
                return
        raise InputError(f"[tail] expected all information to pass through {tap!r}, got an output that needs more; choose another "
                         "tap, or a loss of features (through_tail=False in pynas.compress)")  # fmt: skip

    def forward(self, feature: Tensor, side: Any = None) -> Tensor:
        """feature: `[B, ...]` as the tap gives it -> the module's output, as `pick` takes it.

        side: where `needs_side`, a mapping whose "model" holds the leaves of the module's call for the batch (`Call.leaves`).
        """
        call = self._call.replaced(side["model"]) if self.needs_side else self._call.mapped(partial(_like, feature))
        _turn.feature = feature
        try:
            return self._pick(call(self.module), call)
        finally:
            del _turn.feature

    def train(self, mode: bool = True) -> Tail:
        """Stay in the mode of the construction."""
        self.training = mode
        return self

    @torch.no_grad()
    def _goes_on(self, feature: Tensor, expected: Tensor, side: Any) -> bool:
        """Whether the example's feature gives the example's output, up to rounding."""
        try:
            apart = (self(feature, side) - expected).abs().max()
        except Exception:  # the module's own code may raise any error on blanks
            return False
        return bool(apart <= max(1e-4, 8 * torch.finfo(expected.dtype).eps) * expected.abs().max())


def _copy(module: nn.Module, batch_statistics: bool) -> nn.Module:
    copy = private_copy(module).eval()
    for norm in copy.modules():
        if batch_statistics and isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.training, norm.track_running_stats = True, False
    return copy


def _feature(output: Any, tap: str) -> tuple[int, Tensor]:
    """Number of the hidden feature among the leaves of an output, and a copy of it, as later modules may change it in place."""
    found = hidden_leaf(output)
    if found is None:
        raise InputError(f"[tail] expected a tensor of features at the tap {tap!r}, got {type(output).__name__}")
    return found[0], found[1].clone()


def _replace(module: nn.Module, others: Mapping[str, Callable[..., Any]], prefix: str = "") -> None:
    """Let these submodules run other functions; those inside them do not run any more."""
    for name, child in module.named_children():
        if prefix + name in others:
            child.forward = others[prefix + name]  # type: ignore[method-assign]
        else:
            _replace(child, others, f"{prefix}{name}.")


def _has_samples(output: Any, samples: int) -> bool:
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return bool(tensors) and all(x.ndim and len(x) == samples for x in tensors)


def _blank(output: Any) -> Callable[..., Any]:
    """Return a function that puts out blanks like an output, of the given feature's batch size."""
    return lambda *args, **kwargs: tree_map_only(Tensor, partial(_like, _turn.feature), output)


def _like(feature: Tensor, x: Tensor) -> Tensor:
    """A blank tensor of the shape of `x` but for the samples, without memory of its own."""
    dtype = feature.dtype if x.is_floating_point() else x.dtype
    return torch.zeros((), dtype=dtype, device=feature.device).expand(len(feature), *x.shape[1:])
