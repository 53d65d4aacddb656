"""Devices and processes of a run: one process, or several that torchrun started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from pynas.errors import InputError, last_line
from pynas.quantities import from_environment
from pynas.rating.distributed import patience, rank_and_size
from pynas.train.team import is_first_process

T = TypeVar("T")


def choose_device(name: str) -> torch.device:
    """Return the device of a name: `auto` is CUDA where there is a device, else the CPU.

    Under torchrun `auto` and `cuda` are the GPU of this process's number.

    Raises:
        InputError: an unknown device, or CUDA where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"[device] expected auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"[device] expected a CUDA device for {name!r}, got none on this machine; use --device cpu")
    return device


@contextlib.contextmanager
def process_group(device: torch.device, folder: Path | None) -> Iterator[None]:
    """Join the processes that torchrun started; do nothing without torchrun.

    Raises:
        InputError: several processes, and no folder that all work in; the others cannot be reached; no numbers in the environment.
    """
    if from_environment("WORLD_SIZE", "1") == 1:
        yield
        return
    if folder is None:
        raise InputError("[run] expected a folder for several processes to work in, got none; name it with --run")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _join("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except BaseException:
        _abandon()
        raise
    distributed.destroy_process_group()


def _join(backend: str) -> None:
    """Join the process group, by keys of this start alone.

    torchrun keeps its store over restarts, and processes would find the addresses of dead ones there.
    """
    rank, size, port = map(from_environment, ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if rank >= size:
        raise InputError(
            f"[processes] expected RANK below WORLD_SIZE, {size}, got {rank}; start with torchrun, which sets both"
        )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, *_ = next(distributed.rendezvous("env://", **patience()))
        store = distributed.PrefixStore(f"start_{attempt}", store)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, **patience())
    except (RuntimeError, ValueError) as error:  # torch.distributed.DistError is a RuntimeError
        raise InputError(
            f"[processes] expected to reach {os.environ.get('MASTER_ADDR')}:{port} as process {rank} of {size}, got: "
            f"{last_line(error)}; check that the first machine and the others run, the address and firewalls"
        ) from None


def _abandon() -> None:
    """Leave the process group whose other processes may be dead, without waiting for them."""
    with contextlib.suppress(Exception):
        if distributed.get_backend() == "nccl":
            distributed.distributed_c10d._abort_process_group()
        else:
            distributed.destroy_process_group()


def from_first_process(compute: Callable[[], T]) -> T:
    """Return what the first process computes, in every process; an InputError of the first one is raised in all."""
    if rank_and_size(None)[1] == 1:
        return compute()
    outcome: list[Any] = [None, None]
    if is_first_process():
        try:
            outcome[0] = compute()
        except InputError as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def check_alone(command: str) -> None:
    """Raise InputError where torchrun started several processes for a command that one process does."""
    if from_environment("WORLD_SIZE", "1") > 1:
        raise InputError(f"[run] expected one process for `pynas {command}`, got {os.environ['WORLD_SIZE']}; "
                         "`pynas train`, `rate` and `retrain` share their work, and `search` that of dna-plus")  # fmt: skip


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Run the body in the first process before the others, which then find its files."""
    if not is_first_process():
        distributed.barrier()
    yield
    if is_first_process():
        meet()


def meet() -> None:
    """Wait until every process is here: the first one has then written what it had to."""
    if rank_and_size(None)[1] > 1:
        distributed.barrier()
