"""Rating by several processes (torchrun): each rates a share of the paths, and all end with the whole table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pynas.errors import InputError
from pynas.quantities import from_environment
from pynas.rating.examination import KeepsState


def rank_and_size(distributed: bool | None) -> tuple[int, int]:
    """Return this process's rank and the number of processes, (0, 1) for one; None: all processes of torch.distributed.

    Raises:
        InputError: distributed=True without a process group.
    """
    ready = dist.is_available() and dist.is_initialized()
    if distributed and not ready:
        raise InputError(
            "[rate] expected torch.distributed to be initialised for distributed=True, got no process group; "
            "call torch.distributed.init_process_group first"
        )
    return (dist.get_rank(), dist.get_world_size()) if ready and distributed is not False else (0, 1)


def patience() -> dict[str, Any]:
    """Return torch's argument `timeout`, how long processes wait for each other, from PYNAS_TIMEOUT (seconds); none by default.

    torch itself waits 30 minutes, between GPUs 10.
    """
    seconds = from_environment("PYNAS_TIMEOUT", "0")
    return {"timeout": timedelta(seconds=seconds)} if seconds else {}


@contextmanager
def fail_as_one(size: int, device: torch.device) -> Iterator[None]:
    """End all processes on an error in one, so that none waits for ever for the others' scores.

    A signal to stop, which is no Exception, ends this process at once: the others may be dead.
    """
    if size == 1:
        yield
        return
    caught: Exception | None = None
    try:
        yield
    except Exception as error:
        caught = error
    state = caught if isinstance(caught, KeepsState) else None
    counts = [caught is not state, state is not None, state is not None and state.weights]
    failed, states, weights = add_up(torch.tensor(counts, dtype=torch.int32, device=device), size).tolist()
    if caught is not None and (state is None or not failed):
        raise KeepsState(state.name, weights > 0) if state else caught
    if failed:
        raise InputError(f"[rate] expected every process to rate its share, got an error in {failed} of {size}")
    if states:
        raise KeepsState("a module that another process rates", weights > 0)


def add_up(values: Tensor, size: int) -> Tensor:
    """Sum over processes."""
    if size > 1:
        dist.all_reduce(values)
    return values


def most(values: Tensor, size: int) -> Tensor:
    """Elementwise maximum over processes."""
    if size > 1:
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def least(value: int, size: int, device: torch.device) -> int:
    """Minimum over processes."""
    return -int(most(torch.tensor([-value], device=device), size).item())


def any_of(value: bool, size: int, device: torch.device) -> bool:
    """Whether the value is True in some process."""
    return bool(most(torch.tensor([int(value)], device=device), size).item())


def agree(digest: str, size: int, device: torch.device) -> bool:
    """Whether all processes have the same hexadecimal digest."""
    number = int(digest[:12] or "0", 16)
    largest, smallest = most(torch.tensor([number, -number], device=device), size).tolist()
    return largest == -smallest
