"""Batch norms that normalise the whole batch that several GPUs share, by torch's SyncBatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.errors import InputError
from pynas.supernets import device_of

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextmanager
def synchronised(module: nn.Module, group: Any, size: int) -> Iterator[None]:
    """Give the batch norms in a module the batch statistics of all processes of a group meanwhile; nothing for one process.

    The norms are then of the class torch.nn.SyncBatchNorm (timm's, with its activation, SyncBatchNormAct); weights, running
    averages and names stay. Those in evaluation mode, as of a frozen teacher, use their running averages as before.

    group: of torch.distributed, None for all processes. size: its processes.

    Raises:
        InputError: a module on a CPU, where torch has no SyncBatchNorm, or a batch norm of another class.
    """
    if size == 1:
        yield
        return
    if device_of(module).type == "cpu":
        raise InputError("[fit] expected a GPU for sync_batch_norm, which torch has for no CPU, got cpu; leave it out")
    changed = _change(module, group)
    try:
        yield
    finally:
        for norm, kind in changed:
            norm.__class__ = kind
            del norm.process_group


def _change(module: nn.Module, group: Any) -> list[tuple[Any, type]]:
    """Turn the batch norms of a module into synchronised ones; return them, each with the class that it had."""
    from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct

    kinds: dict[type, type] = {BatchNormAct2d: SyncBatchNormAct, **dict.fromkeys(_PLAIN, nn.SyncBatchNorm)}
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, _BatchNorm)]
    for name, norm in found:
        if type(norm) not in kinds and not isinstance(norm, nn.SyncBatchNorm):
            raise InputError(f"[fit] expected batch norms of torch or BatchNormAct2d of timm for sync_batch_norm, got "
                             f"{type(norm).__name__} in {name}; leave it out")  # fmt: skip
    changed: list[tuple[Any, type]] = [(norm, type(norm)) for _, norm in found if type(norm) in kinds]
    for part, kind in changed:
        part.__class__ = kinds[kind]
        part.process_group = group
    return changed
