"""A teacher whose weights learn, block by block."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.teachers import Teacher


class LearningTeacher(nn.Module):
    """A teacher's module, copied, with gradients: each feature's graph reaches back to the tap before it, no further.

    So every block of the teacher learns from the loss of that block alone, as every block of the supernet does.
    """

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.module, self.taps = copy.deepcopy(teacher.module).requires_grad_(True), teacher.taps

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: `[B, 3, H, W]` -> the features at the taps; what comes after the last one is not computed."""
        features: dict[str, Tensor] = {}

        def keep(tap: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            features[tap] = output
            if len(features) == len(self.taps):
                raise _Done
            return output.detach()

        handles = [self.module.get_submodule(tap).register_forward_hook(partial(keep, tap)) for tap in self.taps]
        try:
            with suppress(_Done):
                self.module(images)
        finally:
            for handle in handles:
                handle.remove()
        return [features[tap] for tap in self.taps]


@contextmanager
def batch_statistics(*modules: nn.Module) -> Iterator[None]:
    """Evaluation, but batch norm takes the statistics of each batch; modes are put back, stored statistics stay."""
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    norms = [part for part in parts if isinstance(part, _BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for part in parts:
        part.training = isinstance(part, _BatchNorm)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for part, mode in zip(parts, modes):
            part.training = mode
        for norm, track in zip(norms, tracked):
            norm.track_running_stats = track


class _Done(Exception):
    """All taps are reached."""
