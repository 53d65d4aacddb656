"""Several processes train one supernet (torchrun): shares of each batch, and blocks of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pynas.errors import InputError
from pynas.train.checkpoint import trained_state

SPREADS = ("data", "blocks")


def is_first_process() -> bool:
    """Whether this process writes the results."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def block_groups(processes: int, blocks: int) -> list[range]:
    """The blocks of each group: as many groups as divide the processes evenly, at most one per block."""
    groups = max(n for n in range(1, blocks + 1) if processes % n == 0)
    return [range(g, blocks, groups) for g in range(groups)]


class Team:
    """What the processes of a training do together; for one process alone, nothing.

    spread: "data" gives every process a share of each batch, and averages the gradients. "blocks" first forms as many
        groups as divide the processes evenly, at most one per block, and gives every group blocks of its own (block b to
        group b modulo groups): nothing is exchanged between groups but for checkpoints, and within a group batches are
        shared. Only for methods whose blocks learn apart from each other (`blocks_apart`, as `methods.DNA`).

    Batch norm normalises each process's share by itself, as in torch's DistributedDataParallel; running statistics are
    averaged. torch.nn.SyncBatchNorm.convert_sync_batchnorm(net) makes them one on GPUs.

    Raises:
        InputError: an unknown spread, or blocks that do not learn apart.
    """

    def __init__(self, method: Any, spread: str = "data") -> None:
        if spread not in SPREADS:
            raise InputError(f"[fit] expected spread of {', '.join(SPREADS)}, got {spread!r}")
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self.method, self.groups = method, 1
        self.group: Any = None  # of torch.distributed; None: all processes
        apart = getattr(method, "blocks_apart", False)
        if apart:
            method.trained_blocks = range(len(method.net.space))
        if spread == "blocks" and (not apart or getattr(method, "scaler", None) is not None):
            raise InputError(f"[fit] expected a method whose blocks learn apart, without loss scaling, for spread='blocks', "
                             f"got {type(method).__name__}; use spread='data'")  # fmt: skip
        if spread == "blocks" and self.size > 1:
            self._form_groups(len(method.net.space))
        self.group_size = self.size // self.groups

    def _form_groups(self, blocks: int) -> None:
        shares = block_groups(self.size, blocks)
        self.groups = len(shares)
        share = self.size // self.groups
        groups = [dist.new_group(list(range(g * share, (g + 1) * share))) for g in range(self.groups)]
        own = self.rank // share
        self.group = groups[own]
        self.method.trained_blocks = shares[own]

    def share(self, loader: Any) -> Any:
        """A loader of this process's part of each batch.

        Raises:
            InputError: batches that do not divide by the processes of a group.
        """
        if self.group_size == 1:
            return loader
        own = self.rank % self.group_size
        return loader.share(own, self.group_size) if hasattr(loader, "share") else _Share(loader, own, self.group_size)

    @torch.no_grad()
    def begin(self) -> None:
        """All start from the first process's weights."""
        if self.size > 1:
            for tensor in trained_state(self.method).values():
                plain = tensor.contiguous()  # channels last is no layout that all backends send
                dist.broadcast(plain, 0)
                tensor.copy_(plain)

    @torch.no_grad()
    def average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """The mean over the processes that share a batch."""
        if self.group_size == 1:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._average(gradients)

    def average_losses(self, losses: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """The mean over shares of batches, so that all processes see the same, and stop at the same that is not finite."""
        if self.size == 1:
            return dict(losses)
        values = torch.tensor(list(losses.values()), dtype=torch.float64, device=device)
        dist.all_reduce(values)  # a block that another group trains counts 0 here
        return dict(zip(losses, (values / self.group_size).tolist()))

    def first_says(self, value: bool, device: torch.device) -> bool:
        """What holds in the first process, whose clock is everyone's."""
        if self.size == 1:
            return value
        said = torch.tensor([int(value)], device=device)
        dist.broadcast(said, 0)
        return bool(said.item())

    @torch.no_grad()
    def settle(self, optimizer: torch.optim.Optimizer) -> None:
        """Before a checkpoint: one mean of running statistics, and every process has every block."""
        if self.group_size > 1:
            frozen = {id(b) for name, b in self.method.named_buffers() if name.startswith("teacher.")}
            self._average([b for b in self.method.buffers() if b.is_floating_point() and id(b) not in frozen])
        if self.groups > 1:
            self._exchange_blocks(optimizer)

    def _average(self, tensors: list[Tensor]) -> None:
        """Means over the group, in place, sent as one."""
        if tensors:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat, group=self.group)
            flat /= self.group_size
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
                tensor.copy_(part.view(tensor.shape))

    def _exchange_blocks(self, optimizer: torch.optim.Optimizer) -> None:
        method = self.method
        parts = [part for b in method.trained_blocks for part in method.block_parts(b)]
        mine = {id(tensor) for part in parts for tensor in (*part.parameters(), *part.buffers())}
        weights = {name: t.detach().cpu() for name, t in method.state_dict(keep_vars=True).items() if id(t) in mine}
        numbered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        moments = {
            number: {name: _on_cpu(value) for name, value in optimizer.state[parameter].items()}
            for number, parameter in enumerate(numbered)
            if id(parameter) in mine and parameter in optimizer.state
        }
        everyone: list[Any] = [None] * self.size
        # The first of each group speaks for it.
        dist.all_gather_object(everyone, (weights, moments) if self.rank % self.group_size == 0 else None)
        for said in everyone:
            if said is not None:
                weights, moments = said
                method.load_state_dict(weights, strict=False)
                for number, state in moments.items():
                    where = numbered[number].device
                    kept = {n: v.to(where) if isinstance(v, Tensor) and v.ndim else v for n, v in state.items()}
                    optimizer.state[numbered[number]] = kept


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


class _Share:
    """Every size-th image of each batch of any loader."""

    def __init__(self, loader: Iterable[Any], own: int, size: int) -> None:
        self.loader, self.own, self.size = copy.copy(loader), own, size
        if hasattr(loader, "set_epoch"):
            self.set_epoch = self.loader.set_epoch  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for images, labels in self.loader:
            check_divides(len(labels), self.size)
            views = images if isinstance(images, (list, tuple)) else [images]
            shares = [view[self.own :: self.size] for view in views]
            yield (shares if isinstance(images, (list, tuple)) else shares[0]), labels[self.own :: self.size]


def check_divides(batch: int, size: int) -> None:
    """Raise InputError unless `size` processes can share a batch equally."""
    if batch % size:
        raise InputError(f"[fit] expected batches that {size} processes share equally, got one of {batch} images; "
                         "use another batch size")  # fmt: skip
