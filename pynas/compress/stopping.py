"""Early stop of a distillation: the loss on held-out batches says which weights are kept, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pynas.calls import Call
from pynas.errors import InputError
from pynas.methods.ema import frozen_copy
from pynas.rating.distributed import add_up, rank_and_size

_HELD_OUT = 8


class EarlyStop(nn.Module):
    """Keeper of the best weights of a training; a part of the method, so that checkpoints hold what it knows.

    best: copy of the network with the least loss so far. batches: held-out ones; of several processes each takes every n-th.
    steps: of the whole training. patience: checks without a lower loss after which the training ends, None for no end before
    the last step. check_every: steps from one check to the next; there is one before the first step and after the last.

    Raises:
        InputError: no batch, or numbers below 1.
    """

    least: Tensor
    waited: Tensor

    def __init__(
        self, net: nn.Module, batches: Sequence[Any], steps: int, patience: int | None, check_every: int
    ) -> None:
        super().__init__()
        if not batches:
            raise InputError(
                "[compress] expected held-out batches for an early stop, got none; pass at least one as validation="
            )
        for name, value in (("patience", patience), ("check_every", check_every)):
            if value is not None and value < 1:
                raise InputError(f"[compress] expected {name} of at least 1, got {value}")
        self.best = frozen_copy(net)
        self._batches = [Call.of(batch, net) for batch in batches]
        self.steps, self._patience, self._every = steps, patience, check_every
        device = next(net.parameters()).device
        self.register_buffer("least", torch.tensor(torch.inf, dtype=torch.float32, device=device))
        self.register_buffer("waited", torch.tensor(0, device=device))

    def due(self, step: int) -> bool:
        """Whether there is a check after a step, counted from 1."""
        return step % self._every == 0 or step == self.steps

    def finished(self) -> bool:
        """Whether so many checks brought no lower loss that the training ends."""
        return self._patience is not None and int(self.waited) >= self._patience

    @torch.no_grad()
    def check(self, net: nn.Module, loss: Callable[[nn.Module, Call], Tensor]) -> None:
        """Keep a network's weights where their loss is the least so far; the same in all processes.

        loss: called with the network and a call, returns the mean over its samples.
        """
        (rank, size), total, samples = rank_and_size(None), 0.0, 0
        for batch in self._batches[rank::size]:
            call = batch.to(self.least.device)
            total, samples = total + float(loss(net, call)) * call.samples, samples + call.samples
        sums = torch.tensor([total, samples], dtype=torch.float64, device=self.least.device if size > 1 else None)
        total, samples = add_up(sums, size).tolist()
        mean = torch.tensor(total / samples, dtype=torch.float32)
        if mean < self.least.cpu():
            self.least.copy_(mean)
            self.waited.zero_()
            self.best.load_state_dict(net.state_dict())
        else:
            self.waited += 1


def held_out(batches: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Split a list of batches into those to train on and the last eighth, one at least, which is held out.

    Raises:
        InputError: fewer than two batches.
    """
    if len(batches) < 2:
        raise InputError(
            f"[compress] expected at least two batches, of which one is held out, got {len(batches)}; use smaller ones"
        )
    count = max(1, len(batches) // _HELD_OUT)
    return batches[:-count], batches[-count:]
