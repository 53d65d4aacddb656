"""A teacher whose weights learn, block by block."""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import partial
from typing import Any

from torch import Tensor, nn

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


class _Done(Exception):
    """All taps are reached."""
