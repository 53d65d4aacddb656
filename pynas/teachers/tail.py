"""Part of a network after one of its submodules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating.copies import private_copy

_turn = threading.local()
_PROBE = 4


class Tail(nn.Module):
    """Part of a module after one of its submodules, the tap: from the tap's output to the module's output.

    A private copy of the module, with the same weights, runs on blank images. In it the tap returns the given feature, and
    submodules that end before the tap begins return blank tensors and compute nothing. This is exact where the output
    depends on the images through the tap alone.

    batch_statistics: batch norm uses each batch's statistics instead of the stored ones.

    Raises:
        InputError: an output that is not `[B, classes]`, or that depends on more than the tap (checked on random images).
    """

    blank: Tensor

    def __init__(self, module: nn.Module, tap: str, image_shape: Sequence[int], batch_statistics: bool = False) -> None:
        super().__init__()
        self.module = private_copy(module).eval()
        like = next(self.module.parameters(), torch.empty(0))
        blank = torch.zeros((1, *image_shape), dtype=like.dtype, device=like.device)
        self.register_buffer("blank", blank, persistent=False)
        if batch_statistics:
            for norm in self.module.modules():
                if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                    norm.training, norm.track_running_stats = True, False
        images = torch.rand((_PROBE, *image_shape), generator=torch.Generator().manual_seed(0)).to(blank)
        feature, output = self._cut(tap, images)
        if not isinstance(output, Tensor) or output.ndim != 2:
            raise InputError("[teacher] expected logits [B, classes] of the whole module, got another output; use a module "
                             "with its classifier, or a loss of its features")  # fmt: skip
        if not self._goes_on(feature, output):
            raise InputError(
                f"[teacher] expected all information to pass through {tap!r}, got an output that needs more; "
                "choose another tap"
            )

    def forward(self, feature: Tensor) -> Tensor:
        """feature: [B, ...] as the tap gives it -> the module's output [B, classes]."""
        _turn.feature = feature
        try:
            return self.module(self.blank.to(feature.dtype).expand(len(feature), *self.blank.shape[1:]))
        finally:
            del _turn.feature

    def train(self, mode: bool = True) -> Tail:
        """Stay in the mode of the construction."""
        self.training = mode
        return self

    @torch.no_grad()
    def _cut(self, tap: str, images: Tensor) -> tuple[Any, Any]:
        """Run the images, cut off all that runs before the tap, and return the outputs of the tap and of the module."""
        cut, calls = self.module.get_submodule(tap), _Calls(self.module)
        output = calls.run(images)
        begin, _, feature = calls.of[cut][0]
        early = {
            module: outputs[-1][2]
            for module, outputs in calls.of.items()
            if all(end < begin for _, end, _ in outputs) and _is_batch(outputs[-1][2])
        }
        _replace(self.module, early)
        cut.forward = _given  # type: ignore[assignment]
        return feature, output

    @torch.no_grad()
    def _goes_on(self, feature: Tensor, output: Tensor) -> bool:
        try:
            return torch.allclose(self(feature), output, rtol=1e-4, atol=1e-5)
        except RuntimeError:  # shapes of a path around the tap do not fit
            return False


class _Calls:
    """Calls of a module's submodules: (begin, end, output) of each call, in ticks of one clock."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.of, self._begun, self._clock = module, dict[nn.Module, list[Any]](), dict[nn.Module, int](), 0

    def run(self, images: Tensor) -> Any:
        """Run the module, note the calls of its submodules, and return its output."""
        handles = []
        for part in self.module.modules():
            handles += [part.register_forward_pre_hook(self._begin), part.register_forward_hook(self._end)]
        try:
            return self.module(images)
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self._clock += 1
        self._begun[module] = self._clock

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._clock += 1
        self.of.setdefault(module, []).append((self._begun[module], self._clock, output))


def _replace(module: nn.Module, outputs: dict[nn.Module, Tensor]) -> None:
    """Let these submodules return blank outputs; those inside them do not run any more."""
    for child in module.children():
        if child in outputs:
            child.forward = _blank(outputs[child].shape[1:])  # type: ignore[method-assign]
        else:
            _replace(child, outputs)


def _is_batch(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim > 0 and len(output) == _PROBE


def _blank(shape: torch.Size) -> Callable[..., Tensor]:
    def forward(*inputs: Any, **named: Any) -> Tensor:
        feature = _turn.feature
        return feature.new_zeros(()).expand(len(feature), *shape)

    return forward


def _given(*inputs: Any, **named: Any) -> Tensor:
    return _turn.feature
