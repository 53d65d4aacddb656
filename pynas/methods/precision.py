"""The type of a training's forward passes, which a few timed steps may choose."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.supernets import device_of

AMP: dict[Any, torch.dtype | None] = {None: None, False: None, True: torch.bfloat16,
                                      "bfloat16": torch.bfloat16, "float16": torch.float16}  # fmt: skip
# What "auto" chooses from.
_CHOICES = (None, torch.bfloat16)
_STEPS = 2


class Precision(nn.Module):
    """The type of the forward passes under `torch.autocast`.

    amp: None or False for float32, True or "bfloat16", "float16"; "auto" takes the faster of float32 and bfloat16, which
        depends on the network and the machine. Its choice is a buffer, which checkpoints keep, so that a run resumes alike.
    """

    choice: Tensor

    def __init__(self, amp: str | bool | None) -> None:
        super().__init__()
        self.auto = amp == "auto"
        self.fixed = None if self.auto else AMP[amp]
        if self.auto:
            self.register_buffer("choice", torch.zeros((), dtype=torch.int64))

    def _apply(self, fn: Any, recurse: bool = True) -> Precision:
        """Keep the choice on the CPU, where each step reads it: on a GPU every read would wait for the steps before."""
        return self

    @property
    def dtype(self) -> torch.dtype | None:
        """The type under autocast; None for float32."""
        return _CHOICES[int(self.choice)] if self.auto else self.fixed

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which forward passes run."""
        dtype = self.dtype
        return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)

    def choose(self, method: Any, batches: Iterable[tuple[Any, Tensor]]) -> Iterable[tuple[Any, Tensor]]:
        """With "auto", time two training steps of a method on its first batch in each type; return the batches, all of them.

        The steps leave nothing behind but the choice, which is the first process's in a torch.distributed process group.
        """
        if not self.auto:
            return batches
        batches = iter(batches)
        first, device = next(batches), device_of(method)
        with _unchanged(method):
            seconds = [self._time(method, first, number, device) for number in range(len(_CHOICES))]
        fastest = torch.tensor(int(np.argmin(seconds)), device=device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(fastest, 0)
        self.choice.copy_(fastest)
        return chain([first], batches)

    def _time(self, method: Any, batch: tuple[Any, Tensor], choice: int, device: torch.device) -> float:
        """Seconds of two steps in a type, after a run of the same steps that warms up."""
        self.choice.fill_(choice)
        start = 0.0
        for _ in range(2):
            _wait(device)
            start = time.perf_counter()
            for step in range(_STEPS):
                method.training_step(*batch, np.random.default_rng(step))
            _wait(device)
        return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


@contextlib.contextmanager
def _unchanged(method: Any) -> Iterator[None]:
    """Restore a method's weights, buffers, mode and gradients in the end, and torch's generators."""
    kept = {name: value.clone() for name, value in method.trained_state().items()}
    training = method.training
    try:
        with torch.random.fork_rng(devices=[]):  # the loop seeds a GPU's generator in every step
            method.train()
            yield
    finally:
        with torch.no_grad():
            for name, value in method.trained_state().items():
                value.copy_(kept[name])
        method.zero_grad(set_to_none=True)
        method.train(training)
